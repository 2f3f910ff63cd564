"""The entry of a worker process: `python -m fasterapi.core.worker_pool`, started by the edge and by nobody else."""

import sys

from fasterapi._worker import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
