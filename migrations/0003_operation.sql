-- What a controller at work needs to survive: its standing plan, the story of every command, what it saw, what it was told.
-- `role` names the cluster that is controlled; one leader (table leader) acts for a role at a time.

-- Routes stand in a cluster's page, below, together with the sub-clusters that they lead to.
DROP TABLE route;

ALTER TABLE run ADD COLUMN role text NOT NULL DEFAULT 'default';
ALTER TABLE run ADD COLUMN mode text NOT NULL DEFAULT 'active' CHECK (mode IN ('active', 'advisory'));

-- The plan in force and the last one that was seen in place, where a plan that fails is undone to. `need` is how many
-- replicas of each service the near forecast needed then.
CREATE TABLE standing (
    role  text PRIMARY KEY,
    run   bigint NOT NULL,
    tick  bigint NOT NULL,
    term  bigint NOT NULL,
    plan  jsonb NOT NULL,
    good  jsonb NOT NULL,
    need  jsonb NOT NULL DEFAULT '{}',
    at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The story of a command, a row for each thing that happened: written before its executor is called ('started') and
-- after ('done', 'busy', 'failed'). 'left' was handed over by a controller that ended, 'replaced' gave way to a later
-- plan, 'undone' was taken back. `seen` is what was observed of the command's target then.
CREATE TABLE command_event (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run      bigint NOT NULL,
    tick     bigint NOT NULL,
    position integer NOT NULL,
    attempt  integer NOT NULL,
    term     bigint NOT NULL,
    event    text NOT NULL CHECK (event IN ('started', 'done', 'busy', 'failed', 'left', 'replaced', 'undone')),
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen     jsonb,
    problem  text
);
CREATE INDEX command_event_command ON command_event (run, tick, position, id);

ALTER TABLE command DROP CONSTRAINT command_state_check;
ALTER TABLE command ADD CONSTRAINT command_state_check
    CHECK (state IN ('written', 'claimed', 'done', 'failed', 'replaced', 'undone'));
-- `undo` marks a command that takes back what a failed plan had done.
ALTER TABLE command ADD COLUMN undo boolean NOT NULL DEFAULT false;

-- What failed and is left alone until then; `subject` is a GPU or the signature of a command.
CREATE TABLE quarantine (
    role    text NOT NULL,
    subject text NOT NULL,
    reason  text NOT NULL,
    strikes integer NOT NULL DEFAULT 1,
    until   timestamptz NOT NULL,
    PRIMARY KEY (role, subject)
);

-- What operators ask for. A pause holds until a resume; a rollback names the plan, and pauses.
CREATE TABLE operator_order (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    role     text NOT NULL,
    kind     text NOT NULL CHECK (kind IN ('pause', 'resume', 'rollback')),
    by       text NOT NULL,
    reason   text NOT NULL DEFAULT '',
    to_run   bigint,
    to_tick  bigint,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken_at timestamptz
);
CREATE INDEX operator_order_open ON operator_order (role, id);

-- What each turn saw, exactly, so that its decision can be made again: compressed, see controller.recording. `state` is
-- what the loop carried into the turn; it is kept now and then, and decisions can be made again from there on.
CREATE TABLE observation (
    run    bigint NOT NULL,
    tick   bigint NOT NULL,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    detail bytea NOT NULL,
    state  bytea,
    PRIMARY KEY (run, tick)
);
CREATE INDEX observation_at ON observation USING brin (at);

-- What an executor's cluster has no place of its own for (GPUs held, sub-clusters, routes); gateways read routes here.
CREATE TABLE page (
    role   text PRIMARY KEY,
    term   bigint NOT NULL,
    detail jsonb NOT NULL,
    at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Every controller that runs, leader or standby, with its last word on how things are.
CREATE TABLE controller (
    role   text NOT NULL,
    holder text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    status jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (role, holder)
);
