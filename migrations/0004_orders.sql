-- The decision with which a rollback was taken: by the time somebody looks, the controller may have decided again.
ALTER TABLE operator_order ADD COLUMN taken_run bigint, ADD COLUMN taken_tick bigint;
