-- What came of each forecast. The truth stands beside its scores, written once when it has come: the forecasts of before
-- are never touched again, so that their table does not grow by dead rows.
ALTER TABLE forecast DROP COLUMN truth_rps;
ALTER TABLE forecast ADD COLUMN version text NOT NULL DEFAULT '';

-- Of the forecast that turn `tick` made, scored at turn `scored_tick`: what `model` said, and what `naive` would have
-- said of the same steps. Dimensions: truth_rps (services, steps); wape, naive_wape, in_charge (services); pinball,
-- coverage, naive_pinball (services, levels). NaN is what was not measured. The forecast stored is the model's where it
-- was `in_charge` of the service, else the naive one.
CREATE TABLE forecast_score (
    run           bigint NOT NULL,
    tick          bigint NOT NULL,
    horizon       text NOT NULL CHECK (horizon IN ('near', 'far')),
    scored_tick   bigint NOT NULL,
    model         text NOT NULL,
    naive         text NOT NULL,
    services      text[] NOT NULL,
    levels        double precision[] NOT NULL,
    truth_rps     real[] NOT NULL,
    wape          real[] NOT NULL,
    pinball       real[] NOT NULL,
    coverage      real[] NOT NULL,
    naive_wape    real[] NOT NULL,
    naive_pinball real[] NOT NULL,
    in_charge     boolean[] NOT NULL,
    PRIMARY KEY (run, tick, horizon)
);
