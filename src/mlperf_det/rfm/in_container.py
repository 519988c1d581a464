"""The plugin that runs a check inside a container image, whatever the site's container platform is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reframe.core.builtins import fixture, variable

from mlperf_det.rfm import containers, launch, site
from mlperf_det.rfm.image import training_image
from mlperf_det.rfm.own_folders import OwnFolders
from mlperf_det.rfm.user_errors import user_errors


class InContainer(OwnFolders):
    """Gives a check its image and its container platform.

    =====================  =================================================================================
    ``container_image``    the image: a path (Docker: a name), ``none``, or empty for the site's own
    ``image``              fixture: the site's image, checked or built
    =====================  =================================================================================

    The platform is the partition's (``extras['container_runtime']`` or ``container_platforms``), or that of
    ``-S CHECK.container_platform=...``.
    """

    if TYPE_CHECKING:
        # Attributes of every ReFrame test, which its typing does not show.
        env_vars: dict[str, str]
        container_platform: Any

    #: Container image to train in: a path, ``none``, or empty for the one of the site configuration.
    #:
    #: :type: :class:`str`
    #: :default: ``''``
    container_image = variable(str, value='', loggable=True)

    image = fixture(training_image, scope='partition')

    @property
    def in_container_image(self) -> str:
        """The image of this case; empty: it runs without a container."""
        name = self.container_image or self.image.path
        return '' if name == containers.NONE else str(name)

    def in_container_run(self, words: Sequence[str], *, read_only: Sequence[str] = (),
                         identify: bool = True) -> list[str]:
        """Let the job run a command inside the image.

        Args:
            words: the command, quoted.
            read_only: folders that it reads.
            identify: whether the run keeps the checksum of the image, for which all of it is read.

        Returns:
            Script lines that must come before the command; none without a container.

        Raises:
            ReframeError: the platform is unknown, or the image is nothing that it can start.
        """
        if not self.in_container_image:
            return []
        asked = getattr(self.container_platform, 'name', '')
        runtime = containers.runtime_of(self.current_partition, asked if asked in containers.PLATFORMS else '')
        environment = {**self.current_partition.local_env.env_vars, **self.env_vars}
        contract = containers.Contract(
            image=self.in_container_image, read_only=read_only, environment=tuple(sorted(environment)),
            gpu_vendor=site.gpu_vendor(self.current_partition))
        with user_errors():
            self.container_platform = containers.create(runtime, contract, f'\\\n    {launch.wrap(words)}')
        return containers.environment_lines(runtime, contract, identify=identify)
