"""What a job runs on its node: submitit's worker, started sooner.

submitit imports NumPy only so that it comes before a job's own imports; here the job imports nothing of that
kind, and the import would cost every job a fifth of a second of processor time.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the job whose pickle lies in the folder given as argument."""
    sys.modules["numpy"] = None  # type: ignore[assignment]
    from submitit.core.submission import process_job

    del sys.modules["numpy"]
    from snakemake_executor_plugin_submitit.command import CommandFailed

    try:
        process_job(sys.argv[1])
    except CommandFailed as error:  # which has been reported; its traceback says nothing
        sys.exit(f"snakemake-executor-plugin-submitit: {error}")


if __name__ == "__main__":
    main()
