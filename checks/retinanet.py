"""RetinaNet-ResNeXt50 on OpenImages, the object detection benchmark of MLPerf Training v2.0 to v5.1.

    reframe -c checks/retinanet.py -r                                       # smoke: this machine, minutes
    reframe -C systems/SITE/site.py -c checks/retinanet.py -r -t throughput
    reframe -C systems/SITE/site.py -c checks/retinanet.py -r -t convergence -E 'num_nodes == 2'

Recipes come from systems/SITE/recipes.yaml; every recipe is a case of its own.
"""

import reframe as rfm
from reframe.core.builtins import parameter

from mlperf_det.rfm.metrics import TRAINING_METRICS
from mlperf_det.rfm.training_check import DetectionTrainingCheck, recipe_names


@rfm.simple_test
class retinanet(DetectionTrainingCheck):
    """Trains RetinaNet to its quality target (smoke, convergence) or for a fixed number of steps (throughput)."""

    descr = 'RetinaNet-ResNeXt50 on OpenImages'
    benchmark = 'retinanet'
    recipe = parameter(recipe_names('retinanet'))
    backbone = 'resnext50_32x4d-7cdf4587.pth'
    metrics = TRAINING_METRICS
