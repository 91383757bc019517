"""The command line: options in, text out, exit codes, and the one place where errors become text.

    app          the group `run`: the first word is a command, else a manifest;  boundary: errors to text
    run_command, look_commands, change_commands, begin_commands    one click function per command
    plain, json_lines, live    three reporters: they hear the same moments and each tells them its way
    board, live_view           what the live display knows, and how it looks
    summary, plan_text, status_text    values to lines of text

Only this room prints and only this room exits. It decides nothing: a command decides. Commands are
imported inside the click functions, so that `--help` loads neither duckdb nor sqlalchemy nor httpx.
"""
