"""Manifests on a schedule: what is due is started once, and what is under way is brought on.

`due` times come from `core.due`, claims are rows of the ledger, and the work is the ordinary `run`.
"""
