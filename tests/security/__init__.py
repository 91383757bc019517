"""What the program defends, and where each defence is tested.

Assets: the key (it spends money), prompts and answers, the user's disk, the budget. Actors: authors of
manifests, templates and rows from elsewhere, model output, the server and what stands on the way, other
users of the machine, the user's own slips.

    area              tests
    ----------------  ----------------------------------------------------------------------------------
    Manifest          contract/test_manifest_mistakes.py (strict YAML, size, literal keys), fuzz (manifests)
    Spending          security/test_spending.py; e2e/test_cli_run.py (the gate); contract/test_ledger_*.py
    Template          fault/test_prompt_payloads.py (escapes with the CVEs, bombs), fuzz (templates)
    No code from data security/test_data_bombs.py; contract/test_dataset_query.py; fuzz (datasets)
    Paths             security/test_paths.py; contract/test_dataset_query.py (`query` reads only `dataset`);
                      contract/test_results_placing.py (no file of others is replaced)
    Secrets           security/test_secrets.py (whole runs); fault/test_provider_secrets.py;
                      unit/test_provider_keys.py; unit/test_cli_texts.py (crash log)
    Files             security/test_modes.py (whole runs); contract/test_ledger_place.py
    Network           fault/test_provider_tls.py; fault/test_provider_once.py (redirects);
                      fault/test_provider_calls.py (proxies, size of replies),
                      fault/test_provider_deadlines.py
    Hostile server    security/test_hostile_texts.py; fault/test_run_hostile_output.py; fuzz (replies)
    Output            contract/test_results_formats.py (`csv_safe`); security/test_hostile_texts.py
    Prompt injection  security/test_hostile_texts.py (answers are data)
    Database          contract/test_ledger_statements.py; security/test_hostile_texts.py (quotes)
    Supply chain      readme/test_declared_dependencies.py; security/test_supply_chain.py
"""
