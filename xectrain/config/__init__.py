"""The training configuration: one typed, frozen tree (`tree`, `networks`, `sensors`), its files and its reference page.

Add an option in the tree, with a docstring under it, and run `make docs`. Imports no torch and nothing of ours but
`shards.base`; everything else imports it.
"""
