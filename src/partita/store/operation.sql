-- Leadership, the story of commands, and what else a controller at work keeps. $1 … are the arguments.

-- name: campaign
-- Terms are counted from the clock, so that they go on rising where the database was lost: executors refuse older ones.
INSERT INTO leader (role, holder, term, until)
VALUES ($1, $2, extract(epoch FROM clock_timestamp())::bigint, clock_timestamp() + $3 * interval '1 second')
ON CONFLICT (role) DO UPDATE
SET holder = excluded.holder, term = greatest(leader.term + 1, excluded.term), until = excluded.until
WHERE leader.until < clock_timestamp()
RETURNING term;

-- name: renew
UPDATE leader SET until = clock_timestamp() + $4 * interval '1 second'
WHERE role = $1 AND holder = $2 AND term = $3 AND until >= clock_timestamp()
RETURNING term;

-- name: resign
UPDATE leader SET until = clock_timestamp() - interval '1 second' WHERE role = $1 AND holder = $2 AND term = $3;

-- name: leading
-- Shared, so that nobody takes over before the transaction that relies on it has ended; one whose client was frozen in
-- the middle is ended by the server, or nobody could take over for as long as that lasts.
SELECT term, set_config('idle_in_transaction_session_timeout', '3s', true) FROM leader WHERE role = $1 AND holder = $2 AND term = $3 AND until >= clock_timestamp() FOR SHARE;

-- name: leader
SELECT holder, term, until, until >= clock_timestamp() AS holds FROM leader WHERE role = $1;

-- name: begin_live_run
INSERT INTO run (kind, policy, scenario, version, role, mode) VALUES ('live', $1, $2::jsonb, $3, $4, $5) RETURNING id;

-- name: command_positions
SELECT position, verb, detail, state, undo FROM command WHERE run = $1 AND tick = $2 ORDER BY position;

-- name: add_command
INSERT INTO command (run, tick, position, verb, target, reason, detail, term, undo)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9);

-- name: add_command_event
INSERT INTO command_event (run, tick, position, attempt, term, event, seen, problem)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8);

-- name: set_command_state
UPDATE command
SET state = $4, claimed_by = coalesce($5, claimed_by), problem = $6,
    finished_at = CASE WHEN $4 IN ('done', 'failed', 'replaced', 'undone') THEN clock_timestamp() END
WHERE run = $1 AND tick = $2 AND position = $3;

-- name: last_attempts
SELECT position, max(attempt) AS attempt FROM command_event WHERE run = $1 AND tick = $2 GROUP BY position;

-- name: command_events
SELECT position, attempt, term, event, at, seen, problem FROM command_event WHERE run = $1 AND tick = $2 ORDER BY id;

-- name: put_standing
INSERT INTO standing (role, run, tick, term, plan, good, need)
VALUES ($1, $2, $3, $4, $5::jsonb, $6::jsonb, $7::jsonb)
ON CONFLICT (role) DO UPDATE
SET run = excluded.run, tick = excluded.tick, term = excluded.term, plan = excluded.plan, good = excluded.good,
    need = excluded.need, at = clock_timestamp();

-- name: standing
SELECT run, tick, term, plan, good, need, at FROM standing WHERE role = $1;

-- name: strike
INSERT INTO quarantine (role, subject, reason, until) VALUES ($1, $2, $3, clock_timestamp() + $4 * interval '1 second')
ON CONFLICT (role, subject) DO UPDATE
SET reason = excluded.reason,
    strikes = CASE WHEN quarantine.until < clock_timestamp() - interval '1 day' THEN 1 ELSE quarantine.strikes + 1 END,
    until = clock_timestamp() + interval '1 second' * least(86400, $4 * power(2,
        CASE WHEN quarantine.until < clock_timestamp() - interval '1 day' THEN 0 ELSE least(quarantine.strikes, 10) END));

-- name: quarantined
SELECT subject, reason, strikes, until FROM quarantine WHERE role = $1 AND until > clock_timestamp()
ORDER BY subject LIKE '% %', subject;

-- name: lift_quarantine
DELETE FROM quarantine WHERE role = $1;

-- name: add_order
INSERT INTO operator_order (role, kind, by, reason, to_run, to_tick) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id;

-- name: last_pause
SELECT id, kind, by, reason, at FROM operator_order WHERE role = $1 ORDER BY id DESC LIMIT 1;

-- name: open_rollback
SELECT o.id, o.by, o.reason, o.to_run, o.to_tick, p.detail
FROM operator_order o LEFT JOIN plan p ON p.run = o.to_run AND p.tick = o.to_tick
WHERE o.role = $1 AND o.kind = 'rollback' AND o.taken_at IS NULL
ORDER BY o.id DESC LIMIT 1;

-- name: take_rollbacks
UPDATE operator_order SET taken_at = clock_timestamp(), taken_run = $3, taken_tick = $4
WHERE role = $1 AND kind = 'rollback' AND taken_at IS NULL AND id <= $2;

-- name: add_observation
INSERT INTO observation (run, tick, detail, state) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING;

-- name: observations
SELECT tick, detail, state FROM observation WHERE run = $1 AND tick > $2 ORDER BY tick LIMIT $3;

-- name: first_kept
SELECT min(tick) FROM observation WHERE run = $1 AND state IS NOT NULL;

-- name: forget_observations
DELETE FROM observation o USING run r
WHERE o.run = r.id AND r.role = $1 AND o.at < clock_timestamp() - $2 * interval '1 second';

-- name: forget_forecasts
-- The oldest of each run go first, so a look at its first rows is enough, however many are kept.
DELETE FROM forecast f USING (
    SELECT o.run, o.tick, o.horizon FROM run r CROSS JOIN LATERAL (
        SELECT run, tick, horizon, made_at_s FROM forecast WHERE run = r.id ORDER BY tick, horizon LIMIT $3
    ) o
    WHERE r.role = $1 AND r.kind = 'live' AND o.made_at_s < extract(epoch FROM clock_timestamp())::float8 - $2
) gone
WHERE f.run = gone.run AND f.tick = gone.tick AND f.horizon = gone.horizon;

-- name: forget_scores
DELETE FROM forecast_score s USING (
    SELECT o.run, o.tick, o.horizon FROM run r CROSS JOIN LATERAL (
        SELECT run, tick, horizon, scored_tick FROM forecast_score WHERE run = r.id ORDER BY tick, horizon LIMIT $3
    ) o
    JOIN decision d ON d.run = o.run AND d.tick = o.scored_tick
    WHERE r.role = $1 AND r.kind = 'live' AND d.at_s < extract(epoch FROM clock_timestamp())::float8 - $2
) gone
WHERE s.run = gone.run AND s.tick = gone.tick AND s.horizon = gone.horizon;

-- name: last_scores_of_role
-- A controller that comes and goes may leave runs in which nothing was scored.
SELECT s.* FROM (SELECT id FROM run WHERE role = $1 AND kind = 'live' ORDER BY id DESC LIMIT 100) r
CROSS JOIN LATERAL (
    SELECT * FROM forecast_score WHERE run = r.id AND horizon = $2 AND model = $4 AND naive = $5
    ORDER BY tick DESC LIMIT $3
) s
ORDER BY s.run DESC, s.tick DESC LIMIT $3;

-- name: forget_quarantine
DELETE FROM quarantine WHERE role = $1 AND until < clock_timestamp() - interval '1 day';

-- name: put_page
INSERT INTO page (role, term, detail) VALUES ($1, $2, $3::jsonb)
ON CONFLICT (role) DO UPDATE SET term = excluded.term, detail = excluded.detail, at = clock_timestamp()
WHERE page.term <= excluded.term
RETURNING term;

-- name: page
SELECT term, detail FROM page WHERE role = $1;

-- name: tell_routes
SELECT pg_notify('partita_routes', $1);

-- name: report_controller
INSERT INTO controller (role, holder, status) VALUES ($1, $2, $3::jsonb)
ON CONFLICT (role, holder) DO UPDATE SET seen_at = clock_timestamp(), status = excluded.status;

-- name: retire_controllers
DELETE FROM controller WHERE role = $1 AND (holder = $2 OR seen_at < clock_timestamp() - interval '1 day');

-- name: controllers
SELECT holder, seen_at, extract(epoch FROM clock_timestamp() - seen_at)::float8 AS age_s, status
FROM controller WHERE role = $1 ORDER BY seen_at DESC;

-- name: plans
SELECT p.run, p.tick, d.at_s, p.gpus, p.reason, r.mode, r.policy
FROM plan p JOIN run r ON r.id = p.run JOIN decision d ON d.run = p.run AND d.tick = p.tick
WHERE r.role = $1 AND r.kind = 'live' AND r.mode = $2
ORDER BY p.run DESC, p.tick DESC LIMIT $3;

-- name: plan_at
SELECT p.run, p.tick, p.detail, p.reason, r.role FROM plan p JOIN run r ON r.id = p.run WHERE p.run = $1 AND p.tick = $2;

-- name: known_roles
SELECT role, max(at) AS at FROM (
    SELECT role, seen_at AS at FROM controller UNION ALL SELECT role, at FROM standing
) AS known GROUP BY role ORDER BY at DESC, role;

-- name: standing_heading
SELECT run, tick, term, at FROM standing WHERE role = $1;

-- name: decision_on_order
SELECT d.run, d.tick, d.action, d.chosen, d.reason,
       (SELECT count(*) FROM command c WHERE c.run = d.run AND c.tick = d.tick AND NOT c.undo) AS commands
FROM operator_order o JOIN decision d ON d.run = o.taken_run AND d.tick = o.taken_tick
WHERE o.id = $1;

-- name: plan_outcomes
SELECT c.run, c.tick, c.state, c.undo, count(*) AS commands
FROM command c JOIN run r ON r.id = c.run
WHERE r.role = $1 AND (c.run, c.tick) >= ($2, $3) GROUP BY c.run, c.tick, c.state, c.undo;

-- name: commands_of
SELECT position, verb, target, reason, detail, state, term, claimed_by, finished_at, problem, undo
FROM command WHERE run = $1 AND tick = $2 ORDER BY position;

-- name: order_taken
SELECT taken_at FROM operator_order WHERE id = $1;

-- name: last_observation_of_role
SELECT o.run, o.tick, o.detail FROM observation o JOIN run r ON r.id = o.run
WHERE r.role = $1 AND r.kind = 'live' AND o.tick > 0 ORDER BY o.run DESC, o.tick DESC LIMIT 1;

-- name: run_heading
SELECT id, kind, policy, role, mode, scenario, started_at, finished_at FROM run WHERE id = $1;

-- name: run_modes
SELECT id, role, mode FROM run WHERE kind = 'live' AND id = ANY($1::bigint[]);

-- name: recorded_decision
SELECT d.tick, d.at_s, d.action, d.chosen, d.reason, d.offered_rps, d.forecast_rps, d.gpus_held, d.gpus_wanted, d.detail,
       p.detail AS plan
FROM decision d LEFT JOIN plan p ON p.run = d.run AND p.tick = d.tick WHERE d.run = $1 AND d.tick = $2;
