CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)
--
CREATE TABLE status (
	code SMALLINT NOT NULL, 
	word TEXT NOT NULL, 
	CONSTRAINT status_key PRIMARY KEY (code), 
	CONSTRAINT status_one_word UNIQUE (word)
)
--
CREATE TABLE manifest (
	id INTEGER NOT NULL, 
	path TEXT NOT NULL, 
	name TEXT NOT NULL, 
	current_run_id INTEGER, 
	CONSTRAINT manifest_key PRIMARY KEY (id), 
	CONSTRAINT manifest_one_path UNIQUE (path)
)
--
CREATE TABLE template (
	digest TEXT NOT NULL, 
	texts TEXT NOT NULL, 
	CONSTRAINT template_key PRIMARY KEY (digest)
)
--
CREATE TABLE "row" (
	manifest_id INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	"key" TEXT, 
	request_id INTEGER, 
	CONSTRAINT row_key PRIMARY KEY (manifest_id, position), 
	CONSTRAINT row_key_is_known CHECK (key IS NOT NULL OR request_id IS NOT NULL), 
	CONSTRAINT row_manifest_id_exists FOREIGN KEY(manifest_id) REFERENCES manifest (id), 
	CONSTRAINT row_request_id_exists FOREIGN KEY(request_id) REFERENCES request (id)
)
 WITHOUT ROWID


--
CREATE TABLE run (
	id INTEGER NOT NULL, 
	uid TEXT NOT NULL, 
	manifest_id INTEGER NOT NULL, 
	started_at TEXT NOT NULL, 
	finished_at TEXT, 
	state TEXT NOT NULL, 
	exit_code INTEGER, 
	manifest_digest TEXT NOT NULL, 
	template_digest TEXT NOT NULL, 
	dataset_digest TEXT NOT NULL, 
	version TEXT NOT NULL, 
	git_commit TEXT, 
	snapshot TEXT NOT NULL, 
	model TEXT NOT NULL, 
	rows INTEGER NOT NULL, 
	requests_sent INTEGER, 
	succeeded INTEGER, 
	failed INTEGER, 
	unsendable INTEGER, 
	input_tokens BIGINT, 
	output_tokens BIGINT, 
	cost FLOAT, 
	paid_input_tokens BIGINT, 
	paid_output_tokens BIGINT, 
	paid_cost FLOAT, 
	document TEXT, 
	inputs TEXT, 
	published TEXT, 
	history TEXT, 
	CONSTRAINT run_key PRIMARY KEY (id), 
	CONSTRAINT run_state_is_known CHECK (state IN ('running', 'finished', 'interrupted', 'failed', 'detached')), 
	CONSTRAINT run_uid_is_whole CHECK (length(uid) = 32), 
	CONSTRAINT run_manifest_id_exists FOREIGN KEY(manifest_id) REFERENCES manifest (id), 
	CONSTRAINT run_one_uid UNIQUE (uid)
)
--
CREATE INDEX run_by_manifest_id ON run (manifest_id)
--
CREATE TABLE row_cause (
	manifest_id INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	error_class TEXT NOT NULL, 
	error_code TEXT, 
	error_message TEXT NOT NULL, 
	CONSTRAINT row_cause_key PRIMARY KEY (manifest_id, position), 
	CONSTRAINT row_cause_manifest_id_position_exists FOREIGN KEY(manifest_id, position) REFERENCES "row" (manifest_id, position)
)
--
CREATE TABLE shard (
	id INTEGER NOT NULL, 
	run_id INTEGER NOT NULL, 
	manifest_id INTEGER NOT NULL, 
	slot INTEGER NOT NULL, 
	sha TEXT NOT NULL, 
	path TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	requests INTEGER NOT NULL, 
	endpoint TEXT NOT NULL, 
	completion_window TEXT NOT NULL, 
	model TEXT NOT NULL, 
	server TEXT NOT NULL, 
	state TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	send_by_s FLOAT, 
	not_before_s FLOAT NOT NULL, 
	problem TEXT, 
	is_fenced SMALLINT NOT NULL, 
	cancel_requested SMALLINT NOT NULL, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	CONSTRAINT shard_key PRIMARY KEY (id), 
	CONSTRAINT shard_state_is_known CHECK (state IN ('ready', 'uploading', 'uploaded', 'creating', 'unknown', 'fencing', 'fenced', 'submitted', 'done', 'held', 'refused', 'discarded')), 
	CONSTRAINT shard_attempts_count_from_1 CHECK (attempt >= 1), 
	CONSTRAINT shard_sha_is_whole CHECK (length(sha) = 64), 
	CONSTRAINT shard_manifest_id_exists FOREIGN KEY(manifest_id) REFERENCES manifest (id), 
	CONSTRAINT shard_run_id_exists FOREIGN KEY(run_id) REFERENCES run (id), 
	CONSTRAINT shard_one_run_id_slot UNIQUE (run_id, slot)
)
--
CREATE INDEX shard_by_manifest_id ON shard (manifest_id)
--
CREATE TABLE batch (
	id INTEGER NOT NULL, 
	shard_id INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	server TEXT NOT NULL, 
	batch_id TEXT NOT NULL, 
	input_file_id TEXT, 
	output_file_id TEXT, 
	error_file_id TEXT, 
	status TEXT NOT NULL, 
	total INTEGER, 
	completed INTEGER, 
	failed INTEGER, 
	created_at TEXT, 
	expires_at TEXT, 
	finished_at TEXT, 
	CONSTRAINT batch_key PRIMARY KEY (id), 
	CONSTRAINT batch_shard_id_exists FOREIGN KEY(shard_id) REFERENCES shard (id), 
	CONSTRAINT batch_one_server_batch_id UNIQUE (server, batch_id), 
	CONSTRAINT batch_one_server_input_file_id UNIQUE (server, input_file_id), 
	CONSTRAINT batch_one_shard_id_attempt UNIQUE (shard_id, attempt)
)
--
CREATE TABLE event (
	id INTEGER NOT NULL, 
	at TEXT NOT NULL, 
	run_id INTEGER, 
	shard_id INTEGER, 
	what TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	CONSTRAINT event_key PRIMARY KEY (id), 
	CONSTRAINT event_run_id_exists FOREIGN KEY(run_id) REFERENCES run (id), 
	CONSTRAINT event_shard_id_exists FOREIGN KEY(shard_id) REFERENCES shard (id)
)
--
CREATE TABLE file (
	id INTEGER NOT NULL, 
	shard_id INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	file_id TEXT, 
	filename TEXT, 
	size_bytes BIGINT, 
	state TEXT NOT NULL, 
	raw_path TEXT, 
	lines INTEGER, 
	duplicate_lines INTEGER, 
	unknown_lines INTEGER, 
	bad_lines INTEGER, 
	created_at TEXT NOT NULL, 
	uploaded_at TEXT, 
	CONSTRAINT file_key PRIMARY KEY (id), 
	CONSTRAINT file_results_are_kept CHECK ((kind = 'input') = (raw_path IS NULL)), 
	CONSTRAINT file_kind_is_known CHECK (kind IN ('input', 'output', 'error')), 
	CONSTRAINT file_state_is_known CHECK (state IN ('intended', 'uploaded', 'deleted', 'lost', 'offered')), 
	CONSTRAINT file_shard_id_exists FOREIGN KEY(shard_id) REFERENCES shard (id), 
	CONSTRAINT file_one_raw_path UNIQUE (raw_path), 
	CONSTRAINT file_one_shard_id_kind_file_id UNIQUE (shard_id, kind, file_id)
)
--
CREATE UNIQUE INDEX file_one_input_for_an_attempt ON file (shard_id, attempt) WHERE kind = 'input'
--
CREATE TABLE attempt (
	shard_id INTEGER NOT NULL, 
	line INTEGER NOT NULL, 
	request_id INTEGER NOT NULL, 
	number SMALLINT NOT NULL, 
	status SMALLINT, 
	finish_reason TEXT, 
	input_tokens BIGINT, 
	output_tokens BIGINT, 
	model TEXT, 
	response_uuid BLOB, 
	response_id TEXT, 
	file_id INTEGER, 
	"offset" BIGINT, 
	length INTEGER, 
	answered_at BIGINT, 
	CONSTRAINT attempt_key PRIMARY KEY (shard_id, line), 
	CONSTRAINT attempt_number_counts_from_1 CHECK (number >= 1), 
	CONSTRAINT attempt_file_id_exists FOREIGN KEY(file_id) REFERENCES file (id), 
	CONSTRAINT attempt_request_id_exists FOREIGN KEY(request_id) REFERENCES request (id), 
	CONSTRAINT attempt_shard_id_exists FOREIGN KEY(shard_id) REFERENCES shard (id)
)
 WITHOUT ROWID


--
CREATE TABLE quarantine (
	file_id INTEGER NOT NULL, 
	"offset" BIGINT NOT NULL, 
	length INTEGER NOT NULL, 
	reason TEXT NOT NULL, 
	CONSTRAINT quarantine_key PRIMARY KEY (file_id, "offset"), 
	CONSTRAINT quarantine_file_id_exists FOREIGN KEY(file_id) REFERENCES file (id)
)
--
CREATE TABLE attempt_cause (
	shard_id INTEGER NOT NULL, 
	line INTEGER NOT NULL, 
	status SMALLINT NOT NULL, 
	error_class TEXT NOT NULL, 
	error_code TEXT, 
	error_message TEXT NOT NULL, 
	CONSTRAINT attempt_cause_key PRIMARY KEY (shard_id, line, status), 
	CONSTRAINT attempt_cause_shard_id_line_exists FOREIGN KEY(shard_id, line) REFERENCES attempt (shard_id, line)
)
--
CREATE TRIGGER event_is_kept_on_update BEFORE UPDATE ON event BEGIN SELECT raise(ABORT, 'events are only ever added'); END
--
CREATE TRIGGER event_is_kept_on_delete BEFORE DELETE ON event BEGIN SELECT raise(ABORT, 'events are only ever added'); END
--
CREATE TABLE schedule (
	manifest_id INTEGER NOT NULL, 
	rule TEXT NOT NULL, 
	since TEXT NOT NULL, 
	problem TEXT NOT NULL, 
	CONSTRAINT schedule_key PRIMARY KEY (manifest_id), 
	CONSTRAINT schedule_manifest_id_exists FOREIGN KEY(manifest_id) REFERENCES manifest (id)
)
--
CREATE TABLE due (
	id INTEGER NOT NULL, 
	manifest_id INTEGER NOT NULL, 
	due_at TEXT NOT NULL, 
	previous_at TEXT, 
	state TEXT NOT NULL, 
	claimed_at TEXT NOT NULL, 
	claimed_by TEXT NOT NULL, 
	begun_at TEXT, 
	ended_at TEXT, 
	run_id INTEGER, 
	exit_code INTEGER, 
	message TEXT NOT NULL, 
	CONSTRAINT due_key PRIMARY KEY (id), 
	CONSTRAINT due_state_is_known CHECK (state IN ('claimed', 'started', 'finished', 'failed', 'replaced', 'skipped', 'missed')), 
	CONSTRAINT due_start_is_a_run CHECK (state NOT IN ('started', 'finished') OR run_id IS NOT NULL), 
	CONSTRAINT due_end_has_a_time CHECK ((ended_at IS NULL) = (state IN ('claimed', 'started'))), 
	CONSTRAINT due_manifest_id_exists FOREIGN KEY(manifest_id) REFERENCES manifest (id), 
	CONSTRAINT due_run_id_exists FOREIGN KEY(run_id) REFERENCES run (id), 
	CONSTRAINT due_one_manifest_id_due_at UNIQUE (manifest_id, due_at)
)
--
CREATE UNIQUE INDEX due_one_started_at_a_time ON due (manifest_id) WHERE state = 'started'
--
CREATE TABLE "request" (
	id INTEGER NOT NULL, 
	fingerprint BLOB NOT NULL, 
	name TEXT NOT NULL, 
	status SMALLINT, 
	retryable SMALLINT NOT NULL, 
	attempts SMALLINT NOT NULL, 
	excused SMALLINT NOT NULL, 
	answer_shard_id INTEGER, 
	answer_line INTEGER, 
	open_shard_id INTEGER, 
	open_line INTEGER, 
	failed_shard_id INTEGER, 
	failed_line INTEGER, 
	CONSTRAINT request_key PRIMARY KEY (id), 
	CONSTRAINT request_answer_has_a_place CHECK ((answer_line IS NULL) = (answer_shard_id IS NULL)), 
	CONSTRAINT request_open_has_a_place CHECK ((open_line IS NULL) = (open_shard_id IS NULL)), 
	CONSTRAINT request_failure_has_a_place CHECK ((failed_line IS NULL) = (failed_shard_id IS NULL)), 
	CONSTRAINT request_status_has_an_attempt CHECK ((status IS NULL) = (answer_shard_id IS NULL)), 
	CONSTRAINT request_attempts_count_up CHECK (attempts >= 0), 
	CONSTRAINT request_excused_count_up CHECK (excused >= 0), 
	CONSTRAINT request_fingerprint_is_whole CHECK (length(fingerprint) = 16), 
	CONSTRAINT request_name_is_short CHECK (length(name) <= 40)
)
--
CREATE UNIQUE INDEX request_one_fingerprint ON request (fingerprint)
--
CREATE VIEW results AS
SELECT
    manifest.name AS manifest,
    "row".position AS position,
    coalesce("row".key, request.name) AS key,
    CASE
        WHEN "row".request_id IS NULL THEN 'unsendable'
        WHEN request.status IS NULL THEN 'pending'
        WHEN request.open_shard_id IS NOT NULL AND request.status NOT IN (1, 2, 3, 4) THEN 'pending'
        ELSE status.word
    END AS status,
    CASE WHEN attempt.status IS NOT NULL THEN nullif(coalesce(attempt.finish_reason, 'stop'), '') END
        AS finish_reason,
    coalesce(row_cause.error_class, attempt_cause.error_class) AS error_class,
    coalesce(row_cause.error_code, attempt_cause.error_code) AS error_code,
    coalesce(row_cause.error_message, attempt_cause.error_message) AS error_message,
    attempt.input_tokens AS input_tokens,
    attempt.output_tokens AS output_tokens,
    CASE WHEN attempt.status IS NOT NULL THEN nullif(coalesce(attempt.model, shard.model), '') END AS model,
    request.name || '-' || lower(hex(substr(request.fingerprint, 1, 8))) AS custom_id,
    batch.batch_id AS batch_id,
    CASE WHEN attempt.response_uuid IS NULL THEN attempt.response_id ELSE 'batch_req_' || lower(hex(substr(attempt.response_uuid, 1, 4))) || '-' || lower(hex(substr(attempt.response_uuid, 5, 2))) || '-' || lower(hex(substr(attempt.response_uuid, 7, 2))) || '-' || lower(hex(substr(attempt.response_uuid, 9, 2))) || '-' || lower(hex(substr(attempt.response_uuid, 11, 6))) END
        AS response_id,
    request.attempts AS attempts,
    strftime('%Y-%m-%dT%H:%M:%SZ', attempt.answered_at, 'unixepoch') AS answered_at,
    batch.input_file_id AS input_file_id,
    file.raw_path AS raw_file,
    attempt."offset" AS "offset",
    attempt.length AS length
FROM "row"
JOIN manifest ON manifest.id = "row".manifest_id
LEFT JOIN request ON request.id = "row".request_id
LEFT JOIN status ON status.code = request.status
LEFT JOIN attempt ON attempt.shard_id = request.answer_shard_id AND attempt.line = request.answer_line
    AND (request.open_shard_id IS NULL OR request.status IN (1, 2, 3, 4))
LEFT JOIN row_cause ON row_cause.manifest_id = "row".manifest_id AND row_cause.position = "row".position
LEFT JOIN attempt_cause ON attempt_cause.shard_id = attempt.shard_id AND attempt_cause.line = attempt.line
    AND attempt_cause.status = request.status
LEFT JOIN shard ON shard.id = coalesce(attempt.shard_id, request.open_shard_id)
LEFT JOIN batch ON batch.shard_id = shard.id AND batch.attempt = shard.attempt
LEFT JOIN file ON file.id = attempt.file_id
--
INSERT INTO status (code, word) VALUES (0, 'failed')
--
INSERT INTO status (code, word) VALUES (1, 'succeeded')
--
INSERT INTO status (code, word) VALUES (2, 'truncated')
--
INSERT INTO status (code, word) VALUES (3, 'refused')
--
INSERT INTO status (code, word) VALUES (4, 'invalid')
--
INSERT INTO status (code, word) VALUES (5, 'expired')
--
INSERT INTO status (code, word) VALUES (6, 'cancelled')
--
INSERT INTO status (code, word) VALUES (7, 'unaccounted')
--
INSERT INTO status (code, word) VALUES (8, 'unsendable')
--
INSERT INTO status (code, word) VALUES (9, 'pending')
--
INSERT INTO alembic_version (version_num) VALUES ('0003')
--
PRAGMA application_id=1381322289