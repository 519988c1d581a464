"""Decoding with NVIDIA DALI, an optional extra (``pip install mlperf-det[dali]``): a `device_decode.BatchDecoder`.

On a GPU it decodes with nvJPEG, part of the work on the host ('mixed'); without one its CPU pipeline does all of it,
which is slower than the default path and serves as its test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from mlperf_det.data.device_decode import DecodeError
from mlperf_det.errors import UserError


def check_installed() -> None:
    """Refuse to go on without DALI.

    Raises:
        UserError: names the extra.
    """
    try:
        # Imported here: an optional extra of a gigabyte.
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        raise UserError(f'runtime.decoder dali: NVIDIA DALI cannot be imported ({error}); install the extra `dali`, or '
                        'set runtime.decoder=cpu') from error


class DaliDecoder:
    """A `device_decode.BatchDecoder` that runs a DALI pipeline for each batch.

    Args:
        image_size: side of the result, pixels.
        device: where to decode and where the images stay.
        batch_size: most images in a batch.
        threads: of the pipeline, on the host.

    Raises:
        UserError: DALI is not installed.
    """

    def __init__(self, image_size: int, device: torch.device, batch_size: int, threads: int = 2) -> None:
        check_installed()
        from nvidia.dali import Pipeline, fn, types
        on_gpu = device.type == 'cuda'
        pipeline: Any = Pipeline(batch_size=batch_size, num_threads=threads, prefetch_queue_depth=1,
                                 device_id=(device.index or 0) if on_gpu else None)
        with pipeline:
            files = fn.external_source(name='files')
            mirrored = fn.external_source(name='mirrored')
            images = fn.decoders.image(files, device='mixed' if on_gpu else 'cpu', output_type=types.RGB,
                                       adjust_orientation=False)
            images = fn.resize(images, size=[image_size, image_size], interp_type=types.INTERP_LINEAR, antialias=False)
            images = fn.flip(images, horizontal=mirrored)
            pipeline.set_outputs(fn.transpose(images, perm=[2, 0, 1]))
        pipeline.build()
        self._pipeline = pipeline

    def __call__(self, files: Sequence[Tensor], mirrored: Tensor) -> Tensor:
        """See `device_decode.BatchDecoder`."""
        self._pipeline.feed_input('files', [content.numpy() for content in files])
        self._pipeline.feed_input('mirrored', list(mirrored.to(torch.int32).numpy()))
        try:
            output, = self._pipeline.run()
        except RuntimeError as error:
            raise DecodeError(str(error).splitlines()[0]) from error
        # A copy: DALI uses its memory again for the next batch.
        return from_dlpack(output.as_tensor()).clone()
