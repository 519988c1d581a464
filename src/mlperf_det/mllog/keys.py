"""Keys of MLPerf log events and of their metadata, as this program writes them.

Spelt by the MLPerf logging package where it knows them; the others are customary in published logs.
"""

from typing import Final

from mlperf_logging.mllog import constants as _mlperf

SUBMISSION_BENCHMARK: Final[str] = _mlperf.SUBMISSION_BENCHMARK
SUBMISSION_ORG: Final[str] = _mlperf.SUBMISSION_ORG
SUBMISSION_DIVISION: Final[str] = _mlperf.SUBMISSION_DIVISION
SUBMISSION_STATUS: Final[str] = _mlperf.SUBMISSION_STATUS
SUBMISSION_PLATFORM: Final[str] = _mlperf.SUBMISSION_PLATFORM

CACHE_CLEAR: Final[str] = _mlperf.CACHE_CLEAR
INIT_START: Final[str] = _mlperf.INIT_START
INIT_STOP: Final[str] = _mlperf.INIT_STOP
RUN_START: Final[str] = _mlperf.RUN_START
RUN_STOP: Final[str] = _mlperf.RUN_STOP

BLOCK_START: Final[str] = _mlperf.BLOCK_START
BLOCK_STOP: Final[str] = _mlperf.BLOCK_STOP
EPOCH_START: Final[str] = _mlperf.EPOCH_START
EPOCH_STOP: Final[str] = _mlperf.EPOCH_STOP
EVAL_START: Final[str] = _mlperf.EVAL_START
EVAL_STOP: Final[str] = _mlperf.EVAL_STOP
EVAL_ACCURACY: Final[str] = _mlperf.EVAL_ACCURACY

SEED: Final[str] = _mlperf.SEED
TRAIN_SAMPLES: Final[str] = _mlperf.TRAIN_SAMPLES
EVAL_SAMPLES: Final[str] = _mlperf.EVAL_SAMPLES
GLOBAL_BATCH_SIZE: Final[str] = _mlperf.GLOBAL_BATCH_SIZE
GRADIENT_ACCUMULATION_STEPS: Final[str] = _mlperf.GRADIENT_ACCUMULATION_STEPS
MAX_SAMPLES: Final[str] = _mlperf.MAX_SAMPLES
MODEL_BN_SPAN: Final[str] = _mlperf.MODEL_BN_SPAN

NUM_IMAGE_CANDIDATES: Final[str] = _mlperf.NUM_IMAGE_CANDIDATES
MIN_IMAGE_SIZE: Final[str] = _mlperf.MIN_IMAGE_SIZE
MAX_IMAGE_SIZE: Final[str] = _mlperf.MAX_IMAGE_SIZE

OPT_NAME: Final[str] = _mlperf.OPT_NAME
OPT_BASE_LR: Final[str] = _mlperf.OPT_BASE_LR
OPT_WEIGHT_DECAY: Final[str] = _mlperf.OPT_WEIGHT_DECAY
OPT_LR_WARMUP_STEPS: Final[str] = _mlperf.OPT_LR_WARMUP_STEPS
OPT_LR_WARMUP_EPOCHS: Final[str] = _mlperf.OPT_LR_WARMUP_EPOCHS
OPT_LR_WARMUP_FACTOR: Final[str] = _mlperf.OPT_LR_WARMUP_FACTOR

OPT_LR_DECAY_BOUNDARY_EPOCHS: Final[str] = _mlperf.OPT_LR_DECAY_BOUNDARY_EPOCHS
OPT_LR_DECAY_FACTOR: Final[str] = _mlperf.OPT_LR_DECAY_FACTOR
OPT_LR_DECAY_STEPS: Final[str] = _mlperf.OPT_LR_DECAY_STEPS

WEIGHTS_INITIALIZATION: Final[str] = _mlperf.WEIGHTS_INITIALIZATION

TRACKED_STATS: Final = 'tracked_stats'
D_BATCH_SIZE: Final = 'd_batch_size'
LOCAL_BATCH_SIZE: Final = 'local_batch_size'

# metadata
EPOCH_NUM: Final[str] = _mlperf.EPOCH_NUM
EPOCH_COUNT: Final[str] = _mlperf.EPOCH_COUNT
FIRST_EPOCH_NUM: Final[str] = _mlperf.FIRST_EPOCH_NUM
STATUS: Final[str] = _mlperf.STATUS
STEP: Final = 'step'
TENSOR: Final = 'tensor'
CURRENT_ITER_NUM: Final = 'current_iter_num'

# values of the metadata `status` of RUN_STOP
SUCCESS: Final[str] = _mlperf.SUCCESS
ABORTED: Final[str] = _mlperf.ABORTED
