"""Workers as SLURM jobs."""
