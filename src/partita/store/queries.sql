-- Every statement the store sends, by name. $1 … are its arguments.

-- name: lock_migrations
SELECT pg_advisory_xact_lock(hashtext('partita.schema_migration'));

-- name: create_schema_migration
CREATE TABLE IF NOT EXISTS schema_migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: has_schema_migration
SELECT to_regclass('schema_migration') IS NOT NULL;

-- name: applied_migrations
SELECT number, name, sha256, applied_at FROM schema_migration ORDER BY number;

-- name: record_migration
INSERT INTO schema_migration (number, name, sha256) VALUES ($1, $2, $3);

-- name: server_version
SHOW server_version;

-- name: database_size
SELECT pg_database_size(current_database());

-- name: add_services
INSERT INTO service (name) SELECT unnest($1::text[]) ON CONFLICT (name) DO NOTHING;

-- name: services
SELECT id, name FROM service ORDER BY id;

-- name: service_ids
SELECT id, name FROM service WHERE name = ANY($1::text[]);

-- name: add_import
INSERT INTO trace_import (file, sha256, options, format, kind) VALUES ($1, $2, $3::jsonb, $4, $5)
ON CONFLICT (sha256, options) DO NOTHING;

-- name: import_by_content
SELECT * FROM trace_import WHERE sha256 = $1 AND options = $2::jsonb;

-- name: imports
SELECT * FROM trace_import ORDER BY id;

-- name: try_lock_import
SELECT pg_try_advisory_lock(hashtext('partita.trace_import'), $1);

-- name: unlock_import
SELECT pg_advisory_unlock(hashtext('partita.trace_import'), $1);

-- name: restart_import
UPDATE trace_import SET file = $2, format = $3, kind = $4, started_at = now() WHERE id = $1;

-- name: finish_import
UPDATE trace_import
SET state = 'done', rows = $2, requests = $3, first_ts = $4, end_ts = $5, finished_at = clock_timestamp()
WHERE id = $1
RETURNING *;

-- name: forget_import
DELETE FROM trace_import WHERE id = $1 AND state = 'running';

-- name: ensure_partitions
SELECT ensure_partitions($1, $2);

-- name: settle_partitions
SELECT settle_partitions($1, $2);

-- name: move_watermark
INSERT INTO watermark (source, until) VALUES ($1, $2)
ON CONFLICT (source) DO UPDATE SET until = greatest(watermark.until, excluded.until);

-- name: watermark
SELECT until FROM watermark WHERE source = $1;

-- name: span
SELECT min(ts) AS first_ts, max(ts + bin_s * interval '1 second') AS end_ts, sum(requests)::bigint AS requests
FROM request_rollup WHERE source = $1;

-- name: minutes
SELECT date_bin('1 minute', ts, 'epoch') AS minute, sum(requests)::bigint AS requests
FROM request_rollup WHERE source = $1 AND ts >= $2 AND ts < $3 AND law IS NULL
GROUP BY minute ORDER BY minute;

-- name: read_requests
SELECT ts, service, coalesce(size, 'NaN'), coalesce(output_size, 'NaN')
FROM request_log WHERE source = $1 AND ts >= $2 AND ts < $3;

-- name: read_rollup
SELECT ts, service, bin_s, requests, good, late, dropped, coalesce(law, ' '), coalesce(shape, 'NaN')
FROM request_rollup WHERE source = $1 AND ts >= $2 AND ts < $3 ORDER BY ts, service;

-- name: begin_run
INSERT INTO run (kind, policy, scenario, version) VALUES ($1, $2, $3::jsonb, $4) RETURNING id;

-- name: finish_run
UPDATE run SET finished_at = now() WHERE id = $1;

-- name: runs
SELECT r.id, r.kind, r.policy, r.version, r.started_at, r.finished_at,
       (SELECT count(*) FROM decision d WHERE d.run = r.id) AS decisions,
       (SELECT count(*) FROM decision d WHERE d.run = r.id AND d.action = 'act') AS acts
FROM run r ORDER BY r.id DESC LIMIT $1;

-- name: run
SELECT id, kind, policy, scenario, version, started_at, finished_at FROM run WHERE id = $1;

-- name: last_run
SELECT id, kind, policy, scenario, version, started_at, finished_at FROM run ORDER BY id DESC LIMIT 1;

-- name: decisions
SELECT run, tick, at_s, action, chosen, reason, offered_rps, forecast_rps, gpus_held, gpus_wanted
FROM decision WHERE run = $1 AND tick >= $2 AND (action = 'act' OR NOT $3) ORDER BY tick LIMIT $4;

-- name: decision
SELECT * FROM decision WHERE run = $1 AND tick = $2;

-- name: last_act
SELECT * FROM decision WHERE run = $1 AND action = 'act' ORDER BY tick DESC LIMIT 1;

-- name: last_decision
SELECT * FROM decision WHERE run = $1 ORDER BY tick DESC LIMIT 1;

-- name: commands
SELECT position, verb, target, reason, state, term, claimed_by, finished_at, problem, detail
FROM command WHERE run = $1 AND tick = $2 ORDER BY position;

-- name: plan
SELECT detail FROM plan WHERE run = $1 AND tick = $2;

-- name: standing_forecasts
SELECT DISTINCT ON (horizon) horizon, made_at_s, step_s, model, version, history_s, services, levels, rps
FROM forecast WHERE run = $1 AND tick <= $2 ORDER BY horizon, tick DESC;

-- name: last_run_with_forecasts
SELECT r.id, r.kind, r.policy, r.version, r.started_at, r.finished_at, r.role FROM run r
WHERE EXISTS (SELECT FROM forecast f WHERE f.run = r.id) AND (r.id = $1 OR $1::bigint IS NULL)
ORDER BY r.id DESC LIMIT 1;

-- name: last_forecasts
SELECT DISTINCT ON (horizon) tick, horizon, made_at_s, step_s, model, version, history_s, services, levels, rps
FROM forecast WHERE run = $1 ORDER BY horizon, tick DESC;

-- name: last_forecast_scores
SELECT * FROM forecast_score WHERE run = $1 AND horizon = $2 ORDER BY tick DESC LIMIT $3;

-- name: add_forecast_model
INSERT INTO forecast_model (name, version, trained_from, trained_until, step_s, services, sha256, state)
VALUES ($1, $2, to_timestamp($3), to_timestamp($4), $5, $6, $7, $8);

-- name: drop_old_forecast_models
DELETE FROM forecast_model WHERE name = $1 AND id NOT IN (
    SELECT id FROM forecast_model WHERE name = $1 ORDER BY id DESC LIMIT $2
);

-- name: newest_forecast_model
SELECT name, version, extract(epoch FROM trained_from)::float8 AS trained_from_s,
       extract(epoch FROM trained_until)::float8 AS trained_until_s, step_s, services, sha256, state
FROM forecast_model WHERE name = $1 ORDER BY id DESC LIMIT 1;

-- name: newest_forecast_models
SELECT DISTINCT ON (name) name, version, trained_until, cardinality(services) AS services, step_s
FROM forecast_model ORDER BY name, id DESC;

-- name: contents
SELECT (SELECT count(*) FROM trace_import WHERE state = 'done') AS imports,
       (SELECT coalesce(sum(requests), 0) FROM trace_import WHERE state = 'done')::bigint AS requests,
       (SELECT count(*) FROM service) AS services,
       (SELECT count(*) FROM run) AS runs;

-- name: local_data_directory
SELECT CASE WHEN inet_server_addr() IS NULL AND pg_has_role('pg_read_all_settings', 'USAGE')
            THEN current_setting('data_directory') END;

-- name: log_open
SELECT log_open($1, $2);

-- name: log_begin
SELECT fresh, taken, clock, complete FROM log_begin($1, $2);

-- name: log_end
SELECT log_end($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17);

-- name: log_close
SELECT log_close($1, $2);

-- name: log_services
SELECT log_services($1);

-- name: take_turn_following
LOCK TABLE log_gap IN SHARE ROW EXCLUSIVE MODE;

-- name: settings_of_a_turn
SELECT set_config('synchronous_commit', 'off', true), set_config('idle_in_transaction_session_timeout', '10s', true);

-- name: move_live_watermark
SELECT move_live_watermark($1);

-- name: fold_deltas
WITH taken AS (
    DELETE FROM rollup_delta WHERE ctid = ANY (ARRAY(SELECT ctid FROM rollup_delta LIMIT $1))
    RETURNING ts, service, requests, good, late, dropped
), added AS MATERIALIZED (
    SELECT ts, service, count(*) AS rows, sum(requests)::bigint AS requests, sum(good)::bigint AS good, sum(late)::bigint AS late,
           sum(dropped)::bigint AS dropped
    FROM taken GROUP BY ts, service
), folded AS (
    INSERT INTO request_rollup AS r (ts, service, requests, good, late, dropped)
    SELECT ts, service, requests, good, late, dropped FROM added ORDER BY ts, service
    ON CONFLICT (source, ts, service) DO UPDATE
    SET requests = r.requests + excluded.requests, good = r.good + excluded.good, late = r.late + excluded.late,
        dropped = r.dropped + excluded.dropped
)
SELECT service, sum(rows)::bigint AS rows, sum(good)::bigint AS good, sum(late)::bigint AS late,
       sum(dropped)::bigint AS dropped
FROM added GROUP BY service;

-- name: live_counts
SELECT date_bin($3, ts, $1), service, sum(requests)::bigint FROM request_rollup
WHERE source = 0 AND ts >= $1 AND ts < $2 GROUP BY 1, 2;

-- name: live_fates
SELECT service, sum(good)::bigint, sum(late)::bigint, sum(dropped)::bigint FROM request_rollup
WHERE source = 0 AND ts >= $1 GROUP BY service;

-- name: live_gaps
SELECT begins, ends FROM log_gap WHERE ends > $1 ORDER BY begins;

-- name: prefer_indexes
SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true);

-- name: live_requests
SELECT ts, service, coalesce(size, 'NaN') FROM request_log WHERE source = 0 AND ts >= $1 AND ts < $2;

-- name: prepare_live_log
SELECT prepare_live_log();

-- name: forget_live_log
SELECT forget_live_log();

-- name: summarise_live_log
SELECT summarise_live_log();

-- name: now_s
SELECT extract(epoch FROM clock_timestamp())::double precision;

-- name: log_writers
SELECT writer, since, until, seen_at, closed, rows, rejected, lost, thinned, duplicates,
       seen_at < clock_timestamp() - least(lost_s, $1::double precision) * interval '1 second' AS unseen
FROM log_writer ORDER BY writer;

-- name: log_late
SELECT s.name, l.rows FROM log_late l JOIN service s ON s.id = l.service ORDER BY s.name;

-- name: log_rejects
SELECT reason, sum(rows)::bigint AS rows, (array_agg(example ORDER BY last_at DESC))[1] AS example
FROM log_reject GROUP BY reason ORDER BY reason;

-- name: unconfigured_services
SELECT s.name, sum(r.requests)::double precision / $2::double precision AS rps
FROM request_rollup r JOIN service s ON s.id = r.service
WHERE r.source = 0 AND r.ts >= $3::timestamptz - $2::double precision * interval '1 second' AND r.ts < $3
      AND s.name <> ALL($1::text[])
GROUP BY s.name ORDER BY s.name;

-- name: all_gaps
-- A gap without a beginning was before anybody logged.
SELECT extract(epoch FROM greatest(begins, '1970-01-01+00'))::float8 AS begins, extract(epoch FROM ends)::float8 AS ends
FROM log_gap ORDER BY log_gap.begins;

-- name: live_begin
SELECT least((SELECT min(ts) FROM request_rollup WHERE source = 0),
             (SELECT min(ends) FROM log_gap WHERE begins = '-infinity'));

-- name: sized_requests
-- A bucket is the number of edges (falling, negative) that a size exceeds; -1 where no size was logged.
SELECT date_bin($5, ts, 'epoch') AS at, service,
       CASE WHEN size IS NULL OR size = 'NaN' THEN -1
            ELSE cardinality($4::real[]) - width_bucket(-size, $4::real[]) END AS bucket,
       count(*) AS requests
FROM request_log WHERE source = $1 AND ts >= $2 AND ts < $3
      AND ($6::text IS NULL OR service = (SELECT id FROM service WHERE name = $6))
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
