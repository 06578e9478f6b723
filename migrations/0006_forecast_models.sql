-- What forecasting models have learned. A model is trained on the log up to `trained_until`; `state` is what it needs to
-- forecast or to go on learning, in its own format, and `sha256` its checksum. The newest row of a name counts.
CREATE TABLE forecast_model (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL,
    version       text NOT NULL,
    trained_from  timestamptz NOT NULL,
    trained_until timestamptz NOT NULL,
    step_s        double precision NOT NULL,
    services      text[] NOT NULL,
    sha256        text NOT NULL,
    state         bytea NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX forecast_model_newest ON forecast_model (name, id);
