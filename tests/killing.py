"""`fcf run` in forked processes that get signals at chosen moments."""

import contextlib
import multiprocessing
import os
import sys
import time

import jax
from curves import no_pictures

from fcf_jax import cli
from fcf_jax.parallel.mesh import use_cpu_devices

_FAMILY = multiprocessing.get_context("forkserver")
_FAMILY.set_forkserver_preload(["fcf_jax.cli", "fcf_jax.experiments.run"])


def start_run(*arguments, at=0, signals=(), num_devices=1, said=os.devnull):
    """Start `fcf run`; before the operation `at` on the disk, counted from 1, it gets these signals.

    What it says goes to the file `said`.
    """
    process = _FAMILY.Process(target=_run, args=(["run", *arguments], at, signals, num_devices, said))
    process.start()
    return process


def finish(process, seconds=150):
    """Wait for its exit code; minus the signal if one killed it."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"still running after {seconds} s")
    return process.exitcode


def _run(arguments, at, signals, num_devices, said):
    if num_devices is not None:
        use_cpu_devices(num_devices)
        jax.devices()  # they are what they are from here on
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    num_operations = 0

    def counted(operation):
        def operate(*arguments):
            nonlocal num_operations
            num_operations += 1
            if num_operations == at:
                for number in signals:
                    os.kill(os.getpid(), number)
                time.sleep(120 * (len(signals) > 1))  # nothing follows a second signal
            return operation(*arguments)

        return operate

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    with open(said, "w") as output, contextlib.redirect_stdout(output), no_pictures():
        code = cli.main(arguments)
    if jax.distributed.is_initialized():  # as at the exit of a program, which a forked process lacks
        jax.distributed.shutdown()
    sys.exit(code)
