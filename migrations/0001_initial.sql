-- The whole store. Numbers of services and traces are plain integers without foreign keys, and unique keys of the big
-- tables hold both time and service, so that those tables can become Citus or TimescaleDB tables.

-- Services and imported traces ------------------------------------------------------------------------------------------

CREATE TABLE service (
    id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

-- One file, imported with one set of options. `state` is 'running' from the first row to the commit that brings them all.
CREATE TABLE trace_import (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file        text NOT NULL,
    sha256      text NOT NULL,
    options     jsonb NOT NULL DEFAULT '{}',
    format      text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('requests', 'counts')),
    state       text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done')),
    rows        bigint NOT NULL DEFAULT 0,
    requests    bigint NOT NULL DEFAULT 0,
    first_ts    timestamptz,
    end_ts      timestamptz,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    UNIQUE (sha256, options)
);

-- The request log -------------------------------------------------------------------------------------------------------

-- `source` is the number of the trace_import that brought the row, 0 for a live request. `status`: 0 good, 1 late,
-- 2 dropped, null while unknown (an imported trace says only when requests came). A size of NaN was not recorded.
CREATE TABLE request_log (
    ts          timestamptz NOT NULL,
    source      integer NOT NULL DEFAULT 0,
    service     integer NOT NULL,
    size        real,
    output_size real,
    latency_s   real,
    queue_s     real,
    batch       integer,
    status      smallint,
    replica     text
) PARTITION BY RANGE (ts);

-- Requests arrive nearly in time order, so block ranges tell time apart at a thousandth of a B-tree's size.
CREATE INDEX request_log_ts ON request_log USING brin (ts) WITH (pages_per_range = 32, autosummarize = on);

-- Partitions are days: months of log stay at a hundred tables, BRIN makes an hour out of a day cheap, and old days go by
-- DROP TABLE. Attaching takes a lock that lets others read and write, where CREATE … PARTITION OF would stop them.
CREATE FUNCTION ensure_partitions(from_ts timestamptz, to_ts timestamptz) RETURNS integer
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
            LOCK TABLE request_log IN SHARE UPDATE EXCLUSIVE MODE;
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

-- Summarise block ranges and refresh statistics after a bulk load, so that the first query is planned as well as the last.
CREATE FUNCTION settle_partitions(from_ts timestamptz, to_ts timestamptz) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    day     timestamptz := date_trunc('day', from_ts, 'UTC');
    part    regclass;
    settled integer := 0;
BEGIN
    WHILE day <= to_ts LOOP
        part := to_regclass('request_log_' || to_char(day AT TIME ZONE 'UTC', 'YYYYMMDD'));
        IF part IS NOT NULL THEN
            PERFORM brin_summarize_new_values(i.indexrelid)
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
            WHERE i.indrelid = part AND a.amname = 'brin';
            EXECUTE format('ANALYZE %s', part);
            settled := settled + 1;
        END IF;
        day := day + interval '24 hours';
    END LOOP;
    RETURN settled;
END
$$;

-- The roll-up: requests of one service in one bin, written by the transaction that writes the rows and moves the
-- watermark. A trace of counts has only this; `law` is how its instants are drawn inside the bin: 'e' even, 'p' Poisson,
-- 'g' gamma, 'w' Weibull, with `shape`.
CREATE TABLE request_rollup (
    ts       timestamptz NOT NULL,
    source   integer NOT NULL DEFAULT 0,
    service  integer NOT NULL,
    bin_s    real NOT NULL DEFAULT 1,
    requests bigint NOT NULL,
    good     bigint NOT NULL DEFAULT 0,
    late     bigint NOT NULL DEFAULT 0,
    dropped  bigint NOT NULL DEFAULT 0,
    law      "char",
    shape    double precision,
    PRIMARY KEY (source, ts, service)
);

-- How far a source's log is complete: nothing after `until` may be read as zero load.
CREATE TABLE watermark (
    source integer PRIMARY KEY,
    until  timestamptz NOT NULL
);

-- The journal -----------------------------------------------------------------------------------------------------------

-- One life of the loop. Times of its ticks (`…_s`) are those of the loop's own clock, which is virtual in replay.
CREATE TABLE run (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('live', 'replay')),
    policy      text NOT NULL,
    scenario    jsonb NOT NULL DEFAULT '{}',
    version     text NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

CREATE TABLE decision (
    run          bigint NOT NULL,
    tick         bigint NOT NULL,
    at_s         double precision NOT NULL,
    action       text NOT NULL CHECK (action IN ('act', 'hold')),
    chosen       text NOT NULL,
    reason       text NOT NULL,
    offered_rps  double precision NOT NULL,
    forecast_rps double precision NOT NULL,
    gpus_held    integer NOT NULL,
    gpus_wanted  integer NOT NULL,
    detail       jsonb NOT NULL,
    PRIMARY KEY (run, tick)
);
CREATE INDEX decision_acts ON decision (run, tick) WHERE action = 'act';

CREATE TABLE plan (
    run    bigint NOT NULL,
    tick   bigint NOT NULL,
    gpus   integer NOT NULL,
    reason text NOT NULL,
    detail jsonb NOT NULL,
    PRIMARY KEY (run, tick)
);

-- `term` is the leadership under which the command was written; agents refuse an older one.
CREATE TABLE command (
    run         bigint NOT NULL,
    tick        bigint NOT NULL,
    position    integer NOT NULL,
    verb        text NOT NULL,
    target      text NOT NULL,
    reason      text NOT NULL,
    detail      jsonb NOT NULL,
    term        bigint NOT NULL DEFAULT 0,
    state       text NOT NULL DEFAULT 'written' CHECK (state IN ('written', 'claimed', 'done', 'failed', 'undone')),
    claimed_by  text,
    finished_at timestamptz,
    problem     text,
    PRIMARY KEY (run, tick, position)
);

-- A forecast as made, and what came of it: `rps` has dimensions (services, levels, steps), `truth_rps` (services, steps).
CREATE TABLE forecast (
    run       bigint NOT NULL,
    tick      bigint NOT NULL,
    horizon   text NOT NULL CHECK (horizon IN ('near', 'far')),
    made_at_s double precision NOT NULL,
    step_s    double precision NOT NULL,
    model     text NOT NULL,
    history_s double precision NOT NULL,
    services  text[] NOT NULL,
    levels    double precision[] NOT NULL,
    rps       real[] NOT NULL,
    truth_rps real[],
    PRIMARY KEY (run, tick, horizon)
);

-- The world as commanded ------------------------------------------------------------------------------------------------

-- Requests of a service up to a size go to a sub-cluster, `weight` being its share.
CREATE TABLE route (
    service     text NOT NULL,
    up_to_size  double precision NOT NULL DEFAULT 'Infinity',
    sub_cluster text NOT NULL,
    weight      double precision NOT NULL DEFAULT 1,
    run         bigint NOT NULL,
    tick        bigint NOT NULL,
    PRIMARY KEY (service, up_to_size, sub_cluster)
);

-- Who leads: one row a role, renewed by the database's clock. A holder that was frozen loses it at `until`.
CREATE TABLE leader (
    role   text PRIMARY KEY,
    holder text NOT NULL,
    term   bigint NOT NULL,
    until  timestamptz NOT NULL
);
