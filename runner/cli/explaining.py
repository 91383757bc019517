"""Why rows failed, for the end of a run: the most common causes, asked from the published table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.cli.summary import Explanation
from runner.cli.texts import clean
from runner.commands.moments import Finished
from runner.commands.options import ManifestOptions
from runner.core.wire import decode_json
from runner.errors import RunnerError

MOST = 4
_SQL = f"""
SELECT count(*) AS rows, coalesce(_error_class, _status) AS cause, any_value(_error_message) AS example
FROM results WHERE _status NOT IN ('succeeded', 'pending')
GROUP BY cause ORDER BY rows DESC, cause LIMIT {MOST}
"""  # noqa: S608 - a constant


class Explainer:
    """Knows the manifests of this command line and finds the one that a run has just finished."""

    def __init__(self, manifests: Sequence[ManifestOptions], environ: Mapping[str, str]) -> None:
        self._manifests = list(manifests)
        self._environ = environ

    def __call__(self, finished: Finished) -> Explanation:
        """The manifest as typed, and the causes where rows failed. Never raises."""
        manifest = self._find(finished)
        if manifest is None:
            return Explanation()
        has_failures = finished.succeeded + finished.pending < finished.rows
        causes = self._causes(manifest) if has_failures and finished.results else ()
        return Explanation(manifest=manifest, causes=causes)

    def _find(self, finished: Finished) -> ManifestOptions | None:
        if len(self._manifests) == 1:
            return self._manifests[0]
        from runner.manifest import load

        for one in self._manifests:
            try:
                loaded = load(one.path, set_values=one.set_values, profile=one.profile, environ=self._environ)
            except RunnerError:
                continue
            if loaded.name == finished.manifest and set(loaded.output.paths) >= set(finished.results):
                return one
        return None

    def _causes(self, manifest: ManifestOptions) -> tuple[str, ...]:
        from runner.commands.results import results

        try:
            chunks = results(
                manifest, environ=self._environ, format="jsonl", where=None, sql=_SQL, limit=None
            )
            lines = "".join(chunks).split("\n")
            return tuple(_cause(decode_json(line)) for line in lines if line)
        except (RunnerError, ValueError):
            return ()


def _cause(record: Mapping[str, object]) -> str:
    example = f": {clean(str(record['example']), limit=160)}" if record["example"] else ""
    return f"{record['rows']:,} {clean(str(record['cause']))}{example}"
