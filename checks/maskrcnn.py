"""Mask R-CNN R50-FPN on COCO 2017 by the closed rules of MLPerf Training v0.7, the benchmark of heavy-weight detection.

    reframe -c checks/maskrcnn.py -r                                        # smoke: this machine, minutes
    reframe -C systems/SITE/site.py -c checks/maskrcnn.py -r -t throughput
    reframe -C systems/SITE/site.py -c checks/maskrcnn.py -r -t convergence -E 'num_nodes == 4'

Recipes come from systems/SITE/recipes.yaml; every recipe is a case of its own. Box and mask targets must be met by the
same evaluation. A job of five runs is scored as MLPerf does (fastest and slowest dropped), in seconds and in ThaiSC's
jobs a day: by the wall time of the whole process, which ThaiSC scores, and by run_stop minus run_start.
"""

import reframe as rfm
from reframe.core.builtins import parameter

from mlperf_det.rfm.metrics import SEGM_AP, THAISC_METRICS, TRAINING_METRICS
from mlperf_det.rfm.training_check import DetectionTrainingCheck, recipe_names


@rfm.simple_test
class maskrcnn(DetectionTrainingCheck):
    """Trains Mask R-CNN to its quality target (smoke, convergence) or for a fixed number of steps (throughput)."""

    descr = 'Mask R-CNN R50-FPN on COCO 2017'
    benchmark = 'maskrcnn'
    recipe = parameter(recipe_names('maskrcnn'))
    backbone = 'R-50.pkl'
    metrics = [*TRAINING_METRICS, SEGM_AP, *THAISC_METRICS]
