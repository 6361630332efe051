"""SLURM: renders and submits ordinary sbatch scripts that run `xec` commands. Never touches data itself."""
