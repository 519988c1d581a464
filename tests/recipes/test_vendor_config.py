"""Vendor configuration files: read without running anything, translated field by field."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.recipes.load import builtin_recipes, check, override
from mlperf_det.recipes.vendor_config import read_vendor_config, recipe_fields

SSD = """
## data
export BATCHSIZE=114
export NUMEPOCHS=${NUMEPOCHS:-65}
export EXTRA_PARAMS='--lr-warmup-epoch=3 --lr=0.003157 --weight-decay=1.3e-4 --dali-workers=4'
export NEXP=5
export PGNNODES=1
export PGSYSTEM=$(basename $(readlink -f ${BASH_SOURCE[0]}) | sed 's/^config_//' | sed 's/\\.sh$//' )
WALLTIME_MINUTES=20
export WALLTIME=$((${NEXP} * ${WALLTIME_MINUTES}))
export PASSWORD=hunter2
export PGNGPU=4
export PGHT=2         # HT is on is 2, HT off is 1
"""

RETINANET = """#!/bin/bash
source $(dirname ${BASH_SOURCE[0]})/config_common.sh
export BATCHSIZE=${BATCHSIZE:-64}
export LR=${LR:-0.000085}
export WARMUP_EPOCHS=${WARMUP_EPOCHS:-0}
export EXTRA_PARAMS=${EXTRA_PARAMS:-'--jit --cuda-graphs --eval-batch-size=32'}
export DGXNNODES=1
export WALLTIME_RUNANDTIME=53
export WALLTIME=$((9 + ${NEXP:-1} * ($WALLTIME_RUNANDTIME + 3)))
export DGXNGPU=4
"""

MASKRCNN = """
EXTRA_CONFIG=(
    "SOLVER.BASE_LR"       "0.16"
    "SOLVER.MAX_ITER"      "40000"
    "SOLVER.WARMUP_FACTOR" "0.000256"
    "SOLVER.WARMUP_ITERS"  "625"
    "SOLVER.STEPS"         "\\"(9000, 12000)\\""
    "SOLVER.IMS_PER_BATCH" "128"
    "TEST.IMS_PER_BATCH"   "64"
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN" "4000"
    "NHWC" "True"
)
export DGXNNODES=4
export DGXNGPU=8
export WALLTIME=04:00:00
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_ssd(tmp_path: Path) -> None:
    config = read_vendor_config(write(tmp_path, 'config_PG.sh', SSD))
    assert (config.variables['PGSYSTEM'], config.variables['WALLTIME'], config.variables['PGHT']) == ('PG', '100', '2')
    assert 'PASSWORD' not in config.variables
    fields, notices = recipe_fields(config, 'ssd')
    assert fields == {
        'nodes': 1, 'accelerators_per_node': 4, 'local_batch_size': 114, 'eval_batch_size': 114, 'epochs': 65,
        'experiments': 5, 'walltime_minutes': 20, 'warmup_epochs': 3, 'learning_rate_per_32': 0.003157,
        'weight_decay': 1.3e-4}
    assert any('PASSWORD looks like a secret' in notice for notice in notices)
    assert any('--dali-workers 4 has no counterpart' in notice for notice in notices)
    assert not any('hunter2' in notice for notice in notices)


def test_retinanet_with_sourced_file_and_defaults(tmp_path: Path) -> None:
    write(tmp_path, 'config_common.sh', 'export NUMEPOCHS=8\n')
    config = read_vendor_config(write(tmp_path, 'config_H100.sh', RETINANET), environment={'BATCHSIZE': '32'})
    fields, notices = recipe_fields(config, 'retinanet')
    assert fields == {'nodes': 1, 'accelerators_per_node': 4, 'local_batch_size': 32, 'eval_batch_size': 32,
                      'epochs': 8, 'walltime_minutes': 53, 'base_learning_rate': 8.5e-5, 'warmup_epochs': 0}
    assert config.variables['WALLTIME'] == '65'
    assert len(notices) == 2


def test_maskrcnn_gives_a_legal_recipe(tmp_path: Path) -> None:
    fields, notices = recipe_fields(read_vendor_config(write(tmp_path, 'config_x.sh', MASKRCNN)), 'maskrcnn')
    assert fields['decay_steps'] == [9000, 12000]
    assert (fields['local_batch_size'], fields['eval_batch_size'], fields['epochs']) == (4, 2, 43)
    assert fields['walltime_minutes'] == 240
    assert [notice for notice in notices if 'NHWC True' in notice]
    check(override(builtin_recipes('maskrcnn')['nvidia-4x8x4'], [f'{k}={v}' for k, v in fields.items()]))


@pytest.mark.parametrize('line', [
    'export X=$(touch pwned)', 'export X=`touch pwned`', 'touch pwned', 'X="$(touch pwned)"', 'source $(touch pwned)',
    'X=$((__import__("os").system("touch pwned")))'])
def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    config = read_vendor_config(write(tmp_path, 'config_evil.sh', line + '\n'))
    assert not (tmp_path / 'pwned').exists()
    assert config.notices
    assert 'X' not in config.variables


@pytest.mark.parametrize(('text', 'message'), [
    ('export BATCHSIZE=4\n', 'says nothing of nodes, accelerators_per_node'),
    ('export BATCHSIZE=four\nexport DGXNNODES=1\nexport DGXNGPU=1\n', "'four' is not a number"),
])
def test_what_is_missing_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_fields(read_vendor_config(write(tmp_path, 'config_x.sh', text)), 'ssd')


def test_a_file_that_sources_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='sources itself'):
        read_vendor_config(write(tmp_path, 'config_x.sh', 'source ${BASH_SOURCE%/*}/config_x.sh\n'))
    with pytest.raises(UserError, match='cannot be read'):
        read_vendor_config(tmp_path / 'none.sh')
