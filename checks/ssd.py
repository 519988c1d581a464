"""SSD300-ResNet34 on COCO 2017, the object detection benchmark of MLPerf Training v0.6 to v1.1.

    reframe -c checks/ssd.py -r                                       # smoke: this machine, minutes
    reframe -C systems/SITE/site.py -c checks/ssd.py -r -t throughput
    reframe -C systems/SITE/site.py -c checks/ssd.py -r -t convergence -E 'num_nodes == 2'

Recipes come from systems/SITE/recipes.yaml; every recipe is a case of its own.
"""

import reframe as rfm
from reframe.core.builtins import parameter

from mlperf_det.rfm.metrics import TRAINING_METRICS
from mlperf_det.rfm.training_check import DetectionTrainingCheck, recipe_names


@rfm.simple_test
class ssd(DetectionTrainingCheck):
    """Trains SSD to its quality target (smoke, convergence) or for a fixed number of steps (throughput)."""

    descr = 'SSD300-ResNet34 on COCO 2017'
    benchmark = 'ssd'
    recipe = parameter(recipe_names('ssd'))
    backbone = 'resnet34-333f7ec4.pth'
    metrics = TRAINING_METRICS
