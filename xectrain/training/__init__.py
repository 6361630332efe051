"""Training: a session opens data and a mode and brings both to a position; the trainer is the loop from there on.

To change here: the loop, schedules and optimizer, augmentation, what a checkpoint holds, in what a resumed run may
differ, signals, ranks, tracking. What is learned is in `modes`. May import `modes`, `models` and what lies below them;
nothing of evaluation, inference or export.
"""
