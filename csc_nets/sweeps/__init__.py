"""Sweeps: their folders, their jobs, the processes that run them, and their tables."""

from csc_nets.sweeps.folder import SweepFolder, execution_whitelist, job_folder, job_name, sweep_record
from csc_nets.sweeps.job import run_job
from csc_nets.sweeps.jobs import Job, read_job, read_jobs
from csc_nets.sweeps.launching import register_launchers
from csc_nets.sweeps.report import finish_sweep, save_sweep_report

__all__ = [
    "Job",
    "SweepFolder",
    "execution_whitelist",
    "finish_sweep",
    "job_folder",
    "job_name",
    "read_job",
    "read_jobs",
    "register_launchers",
    "run_job",
    "save_sweep_report",
    "sweep_record",
]
