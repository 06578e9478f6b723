-- The live request log: what gateways write in batches, and what lets a follower know how far it is complete.

-- Whoever logs: one process of a gateway. `life` is which start of it; its batches have the numbers life * 2^32 + 1,
-- 2, … `until` is its promise: everything it will ever log that arrived before has been written. It never goes back.
-- `earlier` is what its earlier lives logged that no watermark has passed yet. It gave up the rows of `thinned`
-- requests and logged their counts only; `lost` ones it gave up altogether. If `lost_s` is set, it counts as lost
-- when unseen for so long, where a follower does not say less.
CREATE TABLE log_writer (
    writer     text PRIMARY KEY,
    life       bigint NOT NULL,
    since      timestamptz NOT NULL,
    until      timestamptz,
    seen_at    timestamptz NOT NULL,
    closed     boolean NOT NULL DEFAULT false,
    lost_s     double precision,
    earlier    tstzmultirange NOT NULL DEFAULT '{}',
    last_batch bigint NOT NULL,
    rows       bigint NOT NULL DEFAULT 0,
    rejected   bigint NOT NULL DEFAULT 0,
    lost       bigint NOT NULL DEFAULT 0,
    thinned    bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Batches that were written, so that one sent again changes nothing. Only the last thousand numbers of a life are kept;
-- anything older is taken for a repetition. Those of earlier lives stay as long as a batch sent again could be taken: a
-- process that was replaced may have been frozen since before it heard that its batch was written.
CREATE TABLE log_batch (
    writer     text NOT NULL,
    batch      bigint NOT NULL,
    taken      bigint NOT NULL DEFAULT 0,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (writer, batch)
);

-- Rows that were refused, by reason.
CREATE TABLE log_reject (
    writer  text NOT NULL,
    reason  text NOT NULL,
    rows    bigint NOT NULL,
    last_at timestamptz NOT NULL,
    example text,
    PRIMARY KEY (writer, reason)
);

-- Requests that arrived before what had been promised as complete: in the roll-up, but too late for the loop.
CREATE TABLE log_late (
    service integer PRIMARY KEY,
    rows    bigint NOT NULL,
    last_at timestamptz NOT NULL
);

-- Counts of single batches, until a follower folds them into the roll-up. No index: it is always read whole. Truncating
-- it would lock the writers out.
CREATE TABLE rollup_delta (
    ts       timestamptz NOT NULL,
    service  integer NOT NULL,
    requests bigint NOT NULL,
    good     bigint NOT NULL,
    late     bigint NOT NULL,
    dropped  bigint NOT NULL
) WITH (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = off);

-- Times in which nobody logged though the watermark has passed them: no request there is not zero requests. Followers
-- take turns by locking this table, which nobody else writes.
CREATE TABLE log_gap (
    begins timestamptz PRIMARY KEY,
    ends   timestamptz NOT NULL
);

-- Writing -------------------------------------------------------------------------------------------------------------

-- Begin a life of a writer and return the number of its first batch. An older process of this name is refused from
-- now on.
CREATE FUNCTION log_open(writer text, lost_s double precision DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    opened bigint;
BEGIN
    IF coalesce(length(log_open.writer), 0) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'a writer needs a name of 1 to 200 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT (log_open.lost_s > 0 AND log_open.lost_s < 'Infinity') THEN
        RAISE EXCEPTION 'lost_s must be a positive number of seconds' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO log_writer AS w (writer, life, since, seen_at, lost_s, last_batch)
    VALUES (log_open.writer, 1, clock_timestamp(), clock_timestamp(), log_open.lost_s, 1::bigint << 32)
    ON CONFLICT ON CONSTRAINT log_writer_pkey DO UPDATE
    SET life = w.life + 1, since = clock_timestamp(), seen_at = clock_timestamp(), closed = false,
        lost_s = excluded.lost_s, last_batch = (w.life + 1) << 32,
        earlier = (w.earlier + tstzmultirange(tstzrange(w.since, greatest(w.since, w.until))))
                  * tstzmultirange(tstzrange((SELECT m.until FROM watermark m WHERE m.source = 0), NULL))
    RETURNING life INTO opened;
    RETURN (opened << 32) + 1;
END
$$;

-- First statement of a batch. `fresh` is false if it was written before, `taken` is then what it had brought. Requests
-- before `complete` are late. Of two transactions with the same batch the second waits here for the first.
CREATE FUNCTION log_begin(
    writer text, batch bigint, OUT fresh boolean, OUT taken bigint, OUT clock timestamptz, OUT complete timestamptz
)
LANGUAGE plpgsql AS $$
DECLARE
    known log_writer;
BEGIN
    IF coalesce(length(log_begin.writer), 0) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'a writer needs a name of 1 to 200 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF log_begin.batch IS NULL OR log_begin.batch < 0 THEN
        RAISE EXCEPTION 'a batch needs a number that is not negative' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- A gateway that is frozen in the middle must not keep others waiting for what it has locked.
    PERFORM set_config('idle_in_transaction_session_timeout', '30s', true);
    clock := clock_timestamp();
    SELECT w.* INTO known FROM log_writer w WHERE w.writer = log_begin.writer;
    IF NOT FOUND THEN
        INSERT INTO log_writer AS w (writer, life, since, seen_at, last_batch)
        VALUES (log_begin.writer, log_begin.batch >> 32, clock, clock, log_begin.batch)
        ON CONFLICT ON CONSTRAINT log_writer_pkey DO NOTHING;
    END IF;
    fresh := known.life IS DISTINCT FROM log_begin.batch >> 32 OR log_begin.batch > known.last_batch - 1000;
    IF fresh THEN
        INSERT INTO log_batch (writer, batch) VALUES (log_begin.writer, log_begin.batch)
        ON CONFLICT ON CONSTRAINT log_batch_pkey DO NOTHING;
        fresh := FOUND;
    END IF;
    IF fresh AND known.life > log_begin.batch >> 32 THEN
        RAISE EXCEPTION 'another process has opened the log as writer %', log_begin.writer USING ERRCODE = 'object_in_use';
    END IF;
    IF NOT fresh THEN
        SELECT b.taken INTO taken FROM log_batch b WHERE b.writer = log_begin.writer AND b.batch = log_begin.batch;
        taken := coalesce(taken, 0);
        UPDATE log_writer w SET duplicates = duplicates + 1, seen_at = clock_timestamp()
        WHERE w.writer = log_begin.writer;
    END IF;
    complete := greatest((SELECT m.until FROM watermark m WHERE m.source = 0), known.until);
END
$$;

-- Last statement of a batch: its counts by second and service, what was late or refused, and the promise, which may be
-- null. A batch without anything is a heartbeat, whose loss in a crash does no harm.
CREATE FUNCTION log_end(
    writer text, batch bigint, until timestamptz, taken bigint, lost bigint, thinned bigint,
    ts timestamptz[], service integer[], requests bigint[], good bigint[], late bigint[], dropped bigint[],
    late_service integer[], late_rows bigint[], reason text[], refused bigint[], example text[]
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rollup_delta
    SELECT * FROM unnest(log_end.ts, log_end.service, log_end.requests, log_end.good, log_end.late, log_end.dropped);
    IF cardinality(log_end.late_service) > 0 THEN
        INSERT INTO log_late AS l (service, rows, last_at)
        SELECT u.service, u.rows, clock_timestamp()
        FROM unnest(log_end.late_service, log_end.late_rows) u (service, rows) ORDER BY u.service
        ON CONFLICT ON CONSTRAINT log_late_pkey DO UPDATE SET rows = l.rows + excluded.rows, last_at = excluded.last_at;
    END IF;
    IF cardinality(log_end.reason) > 0 THEN
        INSERT INTO log_reject AS r (writer, reason, rows, last_at, example)
        SELECT log_end.writer, u.reason, u.rows, clock_timestamp(), u.example
        FROM unnest(log_end.reason, log_end.refused, log_end.example) u (reason, rows, example) ORDER BY u.reason
        ON CONFLICT ON CONSTRAINT log_reject_pkey DO UPDATE
        SET rows = r.rows + excluded.rows, last_at = excluded.last_at, example = excluded.example;
    END IF;
    IF log_end.taken > 0 THEN
        UPDATE log_batch b SET taken = log_end.taken WHERE b.writer = log_end.writer AND b.batch = log_end.batch;
    ELSIF log_end.lost = 0 AND cardinality(log_end.reason) = 0 THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    UPDATE log_writer w
    SET until = CASE WHEN log_end.until IS NULL THEN w.until
                     ELSE greatest(w.until, least(log_end.until, clock_timestamp())) END,
        seen_at = clock_timestamp(), closed = false,
        last_batch = greatest(w.last_batch, log_end.batch), life = greatest(w.life, log_end.batch >> 32),
        rows = w.rows + log_end.taken, lost = w.lost + log_end.lost,
        thinned = w.thinned + log_end.thinned,
        rejected = w.rejected + coalesce((SELECT sum(n) FROM unnest(log_end.refused) n), 0)
    WHERE w.writer = log_end.writer;
    IF log_end.batch % 64 = 0 THEN
        DELETE FROM log_batch b
        WHERE b.writer = log_end.writer AND b.batch BETWEEN log_end.batch >> 32 << 32 AND log_end.batch - 1000;
    END IF;
END
$$;

-- Say goodbye: this writer (in the life of this batch number) will log no more, and holds nobody up.
CREATE FUNCTION log_close(writer text, batch bigint) RETURNS void
LANGUAGE sql AS $$
    UPDATE log_writer w SET closed = true, seen_at = clock_timestamp()
    WHERE w.writer = log_close.writer AND w.life = log_close.batch >> 32;
$$;

-- Names that a row cannot have are refused before they come here.
CREATE FUNCTION log_services(names text[]) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO service (name)
    SELECT DISTINCT n FROM unnest(names) n
    WHERE length(n) BETWEEN 1 AND 200 AND NOT EXISTS (SELECT FROM service s WHERE s.name = n)
    ORDER BY n
    ON CONFLICT (name) DO NOTHING;
$$;

-- What gateways call that do not use the Python client ----------------------------------------------------------------

-- Log requests; return how many were taken (of a repeated batch: had been taken). A null array is a column that was not
-- recorded; so is a null, and a size of NaN. Rows that cannot be are refused one by one, by reason.
CREATE FUNCTION log_requests(
    writer text, batch bigint, until timestamptz, service text[], ts timestamptz[], size real[] DEFAULT NULL,
    latency_s real[] DEFAULT NULL, queue_s real[] DEFAULT NULL, batch_size integer[] DEFAULT NULL,
    status smallint[] DEFAULT NULL, replica text[] DEFAULT NULL, lost bigint DEFAULT 0
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    begun   record;
    given   integer := coalesce(cardinality(log_requests.service), 0);
    taken   bigint;
    reasons text[];
    refused bigint[];
    shown   text[];
BEGIN
    IF coalesce(cardinality(log_requests.ts), 0) <> given OR coalesce(cardinality(size), given) <> given
       OR coalesce(cardinality(latency_s), given) <> given OR coalesce(cardinality(queue_s), given) <> given
       OR coalesce(cardinality(batch_size), given) <> given OR coalesce(cardinality(status), given) <> given
       OR coalesce(cardinality(replica), given) <> given THEN
        RAISE EXCEPTION 'the columns of a batch must be equally long' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT * INTO begun FROM log_begin(log_requests.writer, log_requests.batch);
    IF NOT begun.fresh THEN
        RETURN begun.taken;
    END IF;
    PERFORM log_services(log_requests.service);
    PERFORM ensure_partitions(min(t), max(t)) FROM unnest(log_requests.ts) t
    WHERE t BETWEEN begun.clock - interval '1 day' AND begun.clock + interval '1 minute' HAVING count(*) > 0;

    WITH judged AS MATERIALIZED (
        SELECT g.*, CASE
            WHEN coalesce(length(g.service), 0) NOT BETWEEN 1 AND 200 THEN 'service'
            WHEN g.ts IS NULL OR NOT isfinite(g.ts) THEN 'arrival'
            WHEN NOT (g.latency_s >= 0 AND g.latency_s < 'Infinity')
                 AND NOT (g.latency_s = 'NaN' AND g.status IS NOT DISTINCT FROM 2) THEN 'latency'
            WHEN NOT (g.queue_s >= 0 AND g.queue_s < 'Infinity')
                 AND NOT (g.queue_s = 'NaN' AND g.status IS NOT DISTINCT FROM 2) THEN 'queue'
            WHEN NOT (g.size >= 0 AND g.size < 'Infinity') AND g.size <> 'NaN' THEN 'size'
            WHEN g.batch_size < 1 THEN 'batch'
            WHEN g.status NOT BETWEEN 0 AND 2 THEN 'status'
            WHEN length(g.replica) NOT BETWEEN 1 AND 200 THEN 'replica'
            WHEN g.ts < begun.clock - interval '1 day' THEN 'old'
            WHEN g.ts > begun.clock + interval '1 minute' THEN 'future'
        END AS reason
        FROM unnest(log_requests.service, log_requests.ts, log_requests.size, log_requests.latency_s,
                    log_requests.queue_s, log_requests.batch_size, log_requests.status, log_requests.replica)
             WITH ORDINALITY g (service, ts, size, latency_s, queue_s, batch_size, status, replica, place)
    ), good AS MATERIALIZED (
        SELECT s.id, j.* FROM judged j JOIN service s ON s.name = j.service WHERE j.reason IS NULL
    ), logged AS (
        INSERT INTO request_log (ts, service, size, latency_s, queue_s, batch, status, replica)
        SELECT g.ts, g.id, nullif(g.size, 'NaN'), nullif(g.latency_s, 'NaN'), nullif(g.queue_s, 'NaN'), g.batch_size, g.status,
               g.replica
        FROM good g ORDER BY g.place
    ), counted AS (
        INSERT INTO rollup_delta (ts, service, requests, good, late, dropped)
        SELECT date_trunc('second', g.ts), g.id, count(*), count(*) FILTER (WHERE g.status = 0),
               count(*) FILTER (WHERE g.status = 1), count(*) FILTER (WHERE g.status = 2)
        FROM good g GROUP BY 1, 2
    ), behind AS (
        INSERT INTO log_late AS l (service, rows, last_at)
        SELECT g.id, count(*), clock_timestamp() FROM good g WHERE g.ts < begun.complete GROUP BY g.id ORDER BY g.id
        ON CONFLICT ON CONSTRAINT log_late_pkey DO UPDATE SET rows = l.rows + excluded.rows, last_at = excluded.last_at
    ), turned AS (
        SELECT j.reason, count(*) AS n,
               (array_agg(left(concat_ws(' ', coalesce(quote_literal(j.service), 'null'), coalesce(j.ts::text, 'null'),
                                         'size=' || j.size, 'latency_s=' || j.latency_s, 'queue_s=' || j.queue_s,
                                         'batch=' || j.batch_size, 'status=' || j.status, 'replica=' || j.replica), 200)
                          ORDER BY j.place))[1] AS example
        FROM judged j WHERE j.reason IS NOT NULL GROUP BY j.reason
    )
    SELECT (SELECT count(*) FROM good), array_agg(t.reason), array_agg(t.n), array_agg(t.example)
    INTO taken, reasons, refused, shown FROM turned t;

    PERFORM log_end(log_requests.writer, log_requests.batch, log_requests.until, taken, coalesce(log_requests.lost, 0), 0,
                    '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}',
                    coalesce(reasons, '{}'), coalesce(refused, '{}'), coalesce(shown, '{}'));
    RETURN taken;
END
$$;

-- Log counts by second instead of requests, for rates past what one database takes; return how many requests they hold.
-- Of the requests of a second those neither good, late nor dropped are of unknown fate.
CREATE FUNCTION log_counts(
    writer text, batch bigint, until timestamptz, service text[], ts timestamptz[], requests bigint[],
    good bigint[] DEFAULT NULL, late bigint[] DEFAULT NULL, dropped bigint[] DEFAULT NULL, lost bigint DEFAULT 0
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    begun   record;
    given   integer := coalesce(cardinality(log_counts.service), 0);
    taken   bigint;
    reasons text[];
    refused bigint[];
    shown   text[];
BEGIN
    IF coalesce(cardinality(log_counts.ts), 0) <> given OR coalesce(cardinality(log_counts.requests), 0) <> given
       OR coalesce(cardinality(log_counts.good), given) <> given
       OR coalesce(cardinality(log_counts.late), given) <> given
       OR coalesce(cardinality(log_counts.dropped), given) <> given THEN
        RAISE EXCEPTION 'the columns of a batch must be equally long' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT * INTO begun FROM log_begin(log_counts.writer, log_counts.batch);
    IF NOT begun.fresh THEN
        RETURN begun.taken;
    END IF;
    PERFORM log_services(log_counts.service);

    WITH judged AS MATERIALIZED (
        SELECT g.service, date_trunc('second', g.ts) AS ts, g.requests, coalesce(g.good, 0) AS good,
               coalesce(g.late, 0) AS late, coalesce(g.dropped, 0) AS dropped, g.place, CASE
            WHEN coalesce(length(g.service), 0) NOT BETWEEN 1 AND 200 THEN 'service'
            WHEN g.ts IS NULL OR NOT isfinite(g.ts) THEN 'arrival'
            WHEN g.requests IS NULL OR g.requests < 0 OR g.good < 0 OR g.late < 0 OR g.dropped < 0
                 OR g.requests > 1000000000000
                 OR coalesce(g.good, 0)::numeric + coalesce(g.late, 0) + coalesce(g.dropped, 0) > g.requests THEN 'counts'
            WHEN date_trunc('second', g.ts) < begun.clock - interval '1 day' THEN 'old'
            WHEN date_trunc('second', g.ts) > begun.clock + interval '1 minute' THEN 'future'
        END AS reason
        FROM unnest(log_counts.service, log_counts.ts, log_counts.requests, log_counts.good, log_counts.late,
                    log_counts.dropped)
             WITH ORDINALITY g (service, ts, requests, good, late, dropped, place)
    ), good AS MATERIALIZED (
        SELECT s.id, j.* FROM judged j JOIN service s ON s.name = j.service WHERE j.reason IS NULL AND j.requests > 0
    ), counted AS (
        INSERT INTO rollup_delta (ts, service, requests, good, late, dropped)
        SELECT g.ts, g.id, sum(g.requests), sum(g.good), sum(g.late), sum(g.dropped) FROM good g GROUP BY 1, 2
    ), behind AS (
        INSERT INTO log_late AS l (service, rows, last_at)
        SELECT g.id, sum(g.requests), clock_timestamp() FROM good g
        WHERE g.ts < date_trunc('second', begun.complete) GROUP BY g.id ORDER BY g.id
        ON CONFLICT ON CONSTRAINT log_late_pkey DO UPDATE SET rows = l.rows + excluded.rows, last_at = excluded.last_at
    ), turned AS (
        SELECT j.reason, count(*) AS n,
               (array_agg(left(concat_ws(' ', coalesce(quote_literal(j.service), 'null'), coalesce(j.ts::text, 'null'),
                                         'requests=' || j.requests, 'good=' || j.good, 'late=' || j.late,
                                         'dropped=' || j.dropped), 200) ORDER BY j.place))[1] AS example
        FROM judged j WHERE j.reason IS NOT NULL GROUP BY j.reason
    )
    SELECT (SELECT coalesce(sum(g.requests), 0) FROM good g), array_agg(t.reason), array_agg(t.n), array_agg(t.example)
    INTO taken, reasons, refused, shown FROM turned t;

    PERFORM log_end(log_counts.writer, log_counts.batch, log_counts.until, taken, coalesce(log_counts.lost, 0), 0,
                    '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}',
                    coalesce(reasons, '{}'), coalesce(refused, '{}'), coalesce(shown, '{}'));
    RETURN taken;
END
$$;

-- Following -----------------------------------------------------------------------------------------------------------

-- Move the watermark of the live log as far as every live writer has promised, in whole seconds, never back and
-- never past the present, and return it; null while nobody has ever promised. A live writer that has promised
-- nothing yet holds it where it began. A writer not seen for `lost_s` (its own, if that is less) holds it no longer,
-- nor does one that has said goodbye; when all have, the log is complete until the last one's goodbye. Where it
-- passes a time that no writer has logged, it leaves a gap.
CREATE FUNCTION move_live_watermark(lost_s double precision) RETURNS timestamptz
LANGUAGE plpgsql AS $$
DECLARE
    stood  timestamptz := (SELECT m.until FROM watermark m WHERE m.source = 0);
    wanted timestamptz;
    logged tstzmultirange;
BEGIN
    SELECT CASE WHEN bool_and(w.closed) THEN max(w.until)
                WHEN bool_or(NOT w.closed AND w.until IS NOT NULL)
                THEN min(coalesce(w.until, w.since)) FILTER (WHERE NOT w.closed) END
    INTO wanted
    FROM log_writer w
    WHERE w.closed
       OR w.seen_at >= clock_timestamp() - least(w.lost_s, move_live_watermark.lost_s) * interval '1 second';
    IF wanted IS NULL THEN  -- asked first, since least() of a null and a time is the time
        RETURN stood;
    END IF;
    wanted := date_trunc('second', least(wanted, clock_timestamp()));
    IF wanted <= stood THEN
        RETURN stood;
    END IF;
    SELECT coalesce(range_agg(l.span), '{}') INTO logged
    FROM (SELECT tstzrange(w.since, w.until) FROM log_writer w WHERE w.until > w.since
          UNION ALL SELECT unnest(w.earlier) FROM log_writer w) l (span);
    INSERT INTO log_gap (begins, ends)
    SELECT g.begins, g.ends
    FROM (SELECT date_trunc('second', lower(hole)), date_trunc('second', upper(hole))
          FROM unnest(tstzmultirange(tstzrange(coalesce(stood, '-infinity'), wanted)) - logged) hole) g (begins, ends)
    WHERE g.begins < g.ends
    ON CONFLICT (begins) DO UPDATE SET ends = excluded.ends;
    INSERT INTO watermark (source, until) VALUES (0, wanted) ON CONFLICT (source) DO UPDATE SET until = excluded.until;
    RETURN wanted;
END
$$;

-- As before, but only the parent is locked: work on one day, such as a long vacuum, must not keep the next from
-- being made.
CREATE OR REPLACE FUNCTION ensure_partitions(from_ts timestamptz, to_ts timestamptz) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    day  timestamptz := date_trunc('day', from_ts, 'UTC');
    name text;
    made integer := 0;
BEGIN
    -- Where an extension has taken the table over, partitions are its business.
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = 'request_log'::regclass AND relkind = 'p') THEN
        RETURN 0;
    END IF;
    WHILE day <= to_ts LOOP
        name := 'request_log_' || to_char(day AT TIME ZONE 'UTC', 'YYYYMMDD');
        IF to_regclass(name) IS NULL THEN
            LOCK TABLE ONLY request_log IN SHARE UPDATE EXCLUSIVE MODE;
            IF to_regclass(name) IS NULL THEN
                EXECUTE format('CREATE TABLE %I (LIKE request_log INCLUDING DEFAULTS)', name);
                EXECUTE format('ALTER TABLE request_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                               name, day, day + interval '24 hours');
                made := made + 1;
            END IF;
        END IF;
        day := day + interval '24 hours';
    END LOOP;
    RETURN made;
END
$$;

-- What a follower does now and then. These are three functions, since each gives up when somebody is in the way, and
-- takes back what it had done: what is in the way of one must not undo another.

-- Make the partitions of today and tomorrow.
CREATE FUNCTION prepare_live_log() RETURNS void
LANGUAGE sql SET lock_timeout = '200ms' AS $$
    SELECT ensure_partitions(now(), now() + interval '1 day');
$$;

-- Forget batches that could only be refused as old if they were sent again: those of writers not seen for a day, and
-- those of earlier lives that are a day old. Forget writers after a month.
CREATE FUNCTION forget_live_log() RETURNS void
LANGUAGE plpgsql SET lock_timeout = '200ms' AS $$
BEGIN
    DELETE FROM log_batch b USING log_writer w
    WHERE b.writer = w.writer
      AND (w.seen_at < now() - interval '25 hours'
           OR b.batch < w.life << 32 AND b.written_at < now() - interval '25 hours');
    DELETE FROM log_reject r USING log_writer w WHERE r.writer = w.writer AND w.seen_at < now() - interval '30 days';
    DELETE FROM log_writer w WHERE w.seen_at < now() - interval '30 days';
END
$$;

-- Summarise the block ranges written since the last time, so that the latest requests are found without reading the
-- day.
CREATE FUNCTION summarise_live_log() RETURNS void
LANGUAGE plpgsql SET lock_timeout = '200ms' AS $$
BEGIN
    PERFORM brin_summarize_new_values(i.indexrelid)
    FROM (SELECT DISTINCT to_regclass('request_log_' || to_char(t AT TIME ZONE 'UTC', 'YYYYMMDD'))
          FROM unnest(ARRAY[now() - interval '2 minutes', now()]) t) p (part)
    JOIN pg_index i ON i.indrelid = p.part JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am a ON a.oid = c.relam AND a.amname = 'brin';
END
$$;
