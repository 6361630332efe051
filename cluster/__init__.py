"""SLURM: renders, submits and watches ordinary sbatch scripts that run `xec` commands.

SLURM schedules, torchrun starts ranks; this package writes scripts, calls `sbatch`, and reports how the jobs fare.
It never touches data: of ours it imports `shards.base` only.

profile, profiles/  what a site offers, in YAML      templates/, script  the scripts
kinds, grid         what a campaign consists of      campaign, submit, status, slurm  what was submitted, how it stands
"""
