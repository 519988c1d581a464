"""The check that all benchmarks are: a recipe of this site, trained, and held against target, rules and references."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import reframe as rfm
import reframe.utility.sanity as sn
import reframe.utility.typecheck as typ
from reframe.core.builtins import fixture, parameter, run_after, run_before, sanity_function, variable
from reframe.core.exceptions import ReframeError, SanityError

from mlperf_det.errors import UserError
from mlperf_det.mllog.systems import accelerator_class
from mlperf_det.recipes.load import override
from mlperf_det.recipes.recipe import Recipe, Tier
from mlperf_det.results.regressions import facts_of
from mlperf_det.rfm import launch, references, run_requirements, site
from mlperf_det.rfm.constants import Extra, Feature, Tag
from mlperf_det.rfm.datasets import GENERATED, training_dataset
from mlperf_det.rfm.in_container import InContainer
from mlperf_det.rfm.metrics import Metric
from mlperf_det.rfm.no_silent_pass import NoSilentPass, refuse_late_settings
from mlperf_det.rfm.slurm_job import SlurmJob
from mlperf_det.rfm.user_errors import user_errors
from mlperf_det.run_folder import CHECKPOINTS

#: Stands for the recipes of a site whose recipes file is wrong, so that there is a case to turn red.
UNREADABLE = 'unreadable'


def recipe_names(benchmark: str) -> list[str]:
    """Return the names of the recipes that the current system runs, for ``recipe = parameter(...)``."""
    try:
        return list(site.recipes(benchmark))
    except UserError:
        return [UNREADABLE]


class DetectionTrainingCheck(rfm.RunOnlyRegressionTest, NoSilentPass, InContainer, SlurmJob):
    """Trains one benchmark by one recipe.

    A check defines ``benchmark``, ``recipe`` and ``metrics``; everything else follows from the recipe.

    ==================  ======================================================================================
    parameters          ``tier`` (smoke, throughput, convergence), ``recipe`` (one case a recipe of the site)
    variables           ``recipe_overrides``, ``num_nodes``, ``launch``, ``python``, ``extra_arguments``, ``backbone``,
                        ``seed``; `InContainer`: ``container_image``; `SlurmJob`: ``cpu_bind``, ``requeue``,
                        ``exclude_nodes``; of the dataset: see `training_dataset`
    fixtures            ``dataset``: generated for the smoke tier, the site's own for the others; ``image``
    needs               smoke: nothing; throughput and convergence: a partition with the feature ``gpu``
    ==================  ======================================================================================
    """

    #: Nodes of the job. 0: as many as the recipe says.
    #:
    #: :type: :class:`int`
    num_nodes = 0

    #: Name of the benchmark, as in ``mlperf-det train``.
    #:
    #: :type: :class:`str`
    benchmark = variable(str, loggable=True)

    #: Recipe fields to change, as ``field=value`` separated by blanks: ``'epochs=3 runtime.precision=fp32'``.
    #:
    #: :type: :class:`str`
    recipe_overrides = variable(str, value='', loggable=True)

    #: How ranks are started: ``auto``, ``bare`` (one process), ``torchrun`` (one launcher a node) or ``tasks`` (the
    #: partition's launcher starts every rank).
    #:
    #: :type: :class:`str`
    launch = variable(str, value='auto', loggable=True)

    #: Python that trains. Empty: the one that runs ReFrame, inside a container ``python3``.
    #:
    #: :type: :class:`str`
    python = variable(str, value='')

    #: Further arguments of ``mlperf-det train``.
    #:
    #: :type: :class:`List[str]`
    extra_arguments = variable(typ.List[str], value=[])

    #: File with the backbone's weights: a name in the site's folder of backbones, or an absolute path.
    #:
    #: :type: :class:`str`
    backbone = variable(str, value='')

    #: Folder with the backbones' weights. Empty: ``extras['backbones']`` of the partition, else $MLPERF_DET_BACKBONES.
    #:
    #: :type: :class:`str`
    backbone_dir = variable(str, value='')

    #: Seed of the first run; the n-th run of the job takes ``seed + n``.
    #:
    #: :type: :class:`int`
    seed = variable(int, value=1, loggable=True)

    #: What the first run stood on, in ReFrame's own record: the next night may use the run's folder again.
    #:
    #: :type: :class:`Dict[str, str]`
    run_facts = variable(typ.Dict[str, str], value={}, loggable=True)

    #: Metrics to report; each knows its unit, its direction and the tiers that it belongs to.
    metrics: Sequence[Metric] = ()

    tier = parameter([tier.value for tier in Tier])
    recipe = parameter()
    valid_prog_environs = ['*']  # noqa: RUF012 (ReFrame's idiom)
    sourcesdir = None
    dataset = fixture(training_dataset, scope='session')

    @run_after('init')
    def load_recipe(self) -> None:
        """Take the case's facts from its recipe; leave out combinations that do not belong together."""
        self.configuration_error = ''
        self.nodes_overridden = self.num_nodes > 0
        try:
            settings = site.recipes(self.benchmark)[self.recipe]
        except UserError as error:
            # A listing must not fail for it: one case, under every tag, fails before anything is submitted.
            self.skip_if(self.tier != Tier.SMOKE or self.dataset.card != GENERATED[0], 'another case tells of it')
            self.configuration_error, self.valid_systems = str(error), ['*']
            self.tags |= {Tag.TRAINING, self.benchmark, *(tier.value for tier in Tier)}
            return
        self.skip_if(settings.tier != self.tier, f'the recipe is of tier {settings.tier.value}')
        self.skip_if(settings.dataset != self.dataset.card, f'the recipe reads {settings.dataset}')
        try:
            settings = self.settings
        except UserError as error:
            self.configuration_error = str(error)
        self.num_nodes = settings.nodes
        self.valid_systems = ['*'] if self.tier == Tier.SMOKE else [f'+{Feature.GPU}']
        self.tags |= {Tag.TRAINING, self.benchmark, self.tier}
        self.metrics_required = [metric.name for metric in self._metrics_of_tier()]
        if self.time_limit is None:
            self.time_limit = f'{settings.walltime_minutes * settings.experiments}m'

    @run_after('setup')
    def refuse_a_wrong_configuration(self) -> None:
        """Fail before anything is submitted where the site's files or the options of this run are wrong."""
        if self.configuration_error:
            raise ReframeError(self.configuration_error)
        with user_errors():
            refuse_late_settings(self.dataset, 'data_dir', 'generated_dir', 'generator_arguments')
            refuse_late_settings(self.image, 'image_base', 'build_options')
        wanted, there = self.settings.accelerators_per_node, site.gpus_per_node(self.current_partition)
        if self.tier != Tier.SMOKE and wanted > there:
            raise ReframeError(f'recipe {self.recipe} asks for {wanted} accelerators a node, the configuration of '
                               f'{self.current_partition.fullname} has {there} (devices[].num_devices)')

    @run_after('setup')
    def set_geometry(self) -> None:
        """Turn nodes and accelerators into tasks."""
        ranks = self.settings.accelerators_per_node
        local = self.job.launcher.registered_name == 'local'
        with user_errors():
            starter = launch.choose_starter(self.launch, nodes=self.num_nodes, ranks_per_node=ranks,
                                            local_launcher=local)
        self.geometry = launch.Geometry(nodes=self.num_nodes, ranks_per_node=ranks, starter=starter)
        self.num_tasks_per_node = self.geometry.tasks_per_node
        self.num_tasks = self.num_nodes * self.num_tasks_per_node
        if site.gpus(self.current_partition):
            self.num_gpus_per_node = ranks
        cpus = self.current_partition.processor.num_cpus
        if cpus and not local and self.num_cpus_per_task is None:
            self.num_cpus_per_task = cpus // self.num_tasks_per_node

    @run_after('setup')
    def require_references(self) -> None:
        """Refuse to spend time on a run that nothing could be held against."""
        precision = self.settings.runtime.precision
        place = references.Place(
            file=site.references_file(), accelerator=accelerator_class(site.accelerator(self.current_partition)),
            nodes=self.num_nodes, precision=None if precision == 'auto' else precision)
        with user_errors():
            missing = references.find(self.settings, self._metrics_of_tier(), place).missing
        self.metrics_without_reference = [metric.name for metric in self.metrics if metric.informative]
        if missing and self.tier == Tier.SMOKE:
            self.reference_not_needed = self.reference_not_needed or f'smoke tier; {missing}'
        elif missing and not self.reference_not_needed and not self.is_dry_run():
            raise ReframeError(f'{missing}; add it, or measure first with -S reference_not_needed=calibration')

    @run_before('run')
    def write_job_script(self) -> None:
        """Write the loop over the runs of this job around the command that trains."""
        python = self.python or ('python3' if self.in_container_image else sys.executable)
        words = [*launch.python_command(self.geometry, python),
                 *launch.rank_words(self.geometry, self.slurm_job_cpu_bind), *self._train_words()]
        self.executable, self.executable_opts = words[0], [launch.wrap(words[1:])]
        inside = self.in_container_run(words, read_only=[self.dataset.root, *self._backbone_folders()])
        self.prerun_cmds = [*self.prerun_cmds, *launch.rendezvous(self.geometry), *inside,
                            *launch.open_experiments(self.settings.experiments, self._clear_caches())]
        again = launch.requeue_when_interrupted() if self.requeue else []
        self.postrun_cmds = [*launch.close_experiments(), *again, *self.postrun_cmds]
        self.keep_files = ['run_*']

    @sanity_function
    def training_is_good(self) -> bool:
        """Every run met what was asked of it, and its MLPerf log passes the official checker."""
        try:
            self.runs = [run_requirements.read_run(folder) for folder in self._run_folders()]
            self.run_facts = facts_of(self.runs[0])
            expected = self._expected()
            problems = run_requirements.problems(self.runs, expected)
        except UserError as error:
            raise SanityError(f'a run left no readable record: {error}') from None
        if problems:
            raise SanityError('; '.join(problems))
        return True

    @run_before('performance')
    def set_metrics(self) -> None:
        """Measure each metric of this tier, and hold it against the reference of what the run really ran on."""
        if self.is_dry_run():
            return
        metrics, run = self._metrics_of_tier(), self.runs[0]
        self.perf_variables = {
            metric.name: sn.make_performance_function(metric.measure, metric.unit, self.runs) for metric in metrics}
        place = references.Place(file=site.references_file(), accelerator=run.geometry.accelerator,
                                 nodes=run.geometry.nodes or 0, precision=run.precision)
        self.reference = {self.current_partition.fullname: references.find(self.settings, metrics, place).bounds}

    @run_before('cleanup')
    def drop_checkpoints(self) -> None:
        """Free the space of checkpoints; the rest of each run folder is kept."""
        for folder in self._run_folders():
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)

    def no_silent_pass_status(self) -> list[str]:
        """Return the lines that ask run.json how the run ended."""
        return launch.status_of_run()

    def no_silent_pass_is_judged(self, status: int) -> bool:
        """Leave a run that missed its target to `training_is_good` where MLPerf's rules let one of several miss it."""
        return status in launch.MISSED and run_requirements.may_miss(self.settings)

    def no_silent_pass_explain(self) -> str:
        """Return why training ended as it did: the program's own reason, else its last word; and of spoilt data."""
        reason = run_requirements.stated_reason(self._run_folders()) or super().no_silent_pass_explain()
        with suppress(UserError):
            spoilt = self.dataset.verified().negative_control
            reason += f'; {run_requirements.negative_control_remark(spoilt)}' if spoilt else ''
        return reason

    @property
    def settings(self) -> Recipe:
        """The recipe with all overrides applied.

        Raises:
            UserError: the site's recipes or the overrides are wrong.
        """
        return override(site.recipes(self.benchmark)[self.recipe], self._changes())

    def _changes(self) -> list[str]:
        nodes = [f'nodes={self.num_nodes}'] if self.nodes_overridden else []
        return [*shlex.split(self.recipe_overrides), *nodes]

    def _metrics_of_tier(self) -> list[Metric]:
        return [metric for metric in self.metrics if self.tier in metric.tiers]

    def _run_folders(self) -> list[Path]:
        return [Path(self.stagedir) / f'run_{number}' for number in range(self.settings.experiments)]

    def _train_words(self) -> list[str]:
        backbone = None
        if self.settings.pretrained_backbone:
            backbone = str(Path(*self._backbone_folders()) / self.backbone)
        own = site.recipes_file()
        if own:
            # The copy is what ran, and the job sees it wherever it runs.
            shutil.copyfile(own, Path(self.stagedir) / site.RECIPES_FILE)
        return launch.train_words(
            self.benchmark, recipe=self.recipe, recipes_file=site.RECIPES_FILE if own else None,
            overrides=self._changes(), data=self.dataset.root, backbone=backbone, seed=self.seed,
            extra=self.extra_arguments, caches=bool(self._clear_caches()), resume=self.slurm_job_is_ours)

    def _backbone_folders(self) -> list[str]:
        folder = self.backbone_dir or site.backbone_folder(self.current_partition)
        return [folder] if self.settings.pretrained_backbone else []

    def _clear_caches(self) -> str:
        return str(self.current_partition.extras.get(Extra.CLEAR_CACHES, ''))

    def _expected(self) -> run_requirements.Expected:
        found = self.dataset.verified()
        return run_requirements.Expected(
            recipe=self.settings, device_type='cuda' if site.gpus(self.current_partition) else 'cpu',
            dataset_fingerprint=found.fingerprint, evaluation_images=found.evaluation_images,
            negative_control=found.negative_control)
