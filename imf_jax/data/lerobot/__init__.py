"""LeRobot v3.0 datasets: written and read with pyarrow and PyAV alone, without torch and without lerobot.

| file | what |
|---|---|
| `meta/info.json` | features, frames per second, totals |
| `meta/episodes/chunk-000/file-000.parquet` | one row per episode: length, tasks, where its frames are, statistics |
| `meta/tasks.parquet` | tasks and their numbers |
| `meta/stats.json` | statistics of all frames |
| `data/chunk-000/file-000.parquet` | one row per frame: everything but pictures |
| `videos/<feature>/chunk-000/file-000.mp4` | pictures, H.264 |

The format: https://huggingface.co/docs/lerobot/lerobot-dataset-v3. It lets a file hold one episode or many; this
package writes one, so that a recording that is killed leaves every finished episode whole, and reads both.
"""

from imf_jax.errors import UserError

try:
    import av
    import pyarrow
except ImportError as error:
    raise UserError(
        f"LeRobot datasets and videos need the package {error.name!r}; install both they need with: "
        "pip install 'imf_jax[datasets]'"
    ) from None

__all__ = ["av", "pyarrow"]
