-- +goose Up

CREATE TABLE model_prices (
    model                        text           NOT NULL CHECK (char_length(model) BETWEEN 1 AND 200),
    effective_from               timestamptz    NOT NULL,
    provider                     text           NOT NULL DEFAULT '',
    source                       text           NOT NULL CHECK (source IN ('builtin', 'litellm', 'manual')),
    input_per_million            numeric(24,12) CHECK (input_per_million >= 0),
    output_per_million           numeric(24,12) CHECK (output_per_million >= 0),
    cache_read_per_million       numeric(24,12) CHECK (cache_read_per_million >= 0),
    cache_write_per_million      numeric(24,12) CHECK (cache_write_per_million >= 0),
    cache_write_1h_per_million   numeric(24,12) CHECK (cache_write_1h_per_million >= 0),
    long_input_per_million          numeric(24,12) CHECK (long_input_per_million >= 0),
    long_output_per_million         numeric(24,12) CHECK (long_output_per_million >= 0),
    long_cache_read_per_million     numeric(24,12) CHECK (long_cache_read_per_million >= 0),
    long_cache_write_per_million    numeric(24,12) CHECK (long_cache_write_per_million >= 0),
    long_cache_write_1h_per_million numeric(24,12) CHECK (long_cache_write_1h_per_million >= 0),
    max_output_tokens            bigint         CHECK (max_output_tokens > 0),
    created_at                   timestamptz    NOT NULL DEFAULT now(),
    PRIMARY KEY (model, effective_from),
    CHECK (num_nonnulls(input_per_million, output_per_million) > 0)
);
COMMENT ON TABLE  model_prices IS 'Price catalogue, USD per million tokens. An event is priced by the latest entry of its model whose effective_from is not after the event.';
COMMENT ON COLUMN model_prices.model IS 'Model name as the provider or the price file writes it; "*" prices every model that nothing else matches.';
COMMENT ON COLUMN model_prices.effective_from IS 'First instant at which it holds; 0001-01-01: since ever.';
COMMENT ON COLUMN model_prices.provider IS 'Provider, for people and for the rule that 1-hour cache writes of Anthropic models cost twice the input.';
COMMENT ON COLUMN model_prices.source IS 'builtin: came with the binary. litellm: imported from a file. manual: POST /v1/prices.';
COMMENT ON COLUMN model_prices.input_per_million IS 'USD per million input tokens.';
COMMENT ON COLUMN model_prices.output_per_million IS 'USD per million output tokens; null: as input.';
COMMENT ON COLUMN model_prices.cache_read_per_million IS 'USD per million tokens read from cache; null: as input.';
COMMENT ON COLUMN model_prices.cache_write_per_million IS 'USD per million tokens written to the 5-minute cache; null: as input.';
COMMENT ON COLUMN model_prices.cache_write_1h_per_million IS 'USD per million tokens written to the 1-hour cache; null: twice input for Anthropic models, else as input.';
COMMENT ON COLUMN model_prices.long_input_per_million IS 'As input_per_million, for requests whose input and cache tokens pass 200000; null: no other price.';
COMMENT ON COLUMN model_prices.long_output_per_million IS 'As output_per_million, for such long requests; null: no other price.';
COMMENT ON COLUMN model_prices.long_cache_read_per_million IS 'As cache_read_per_million, for such long requests; null: no other price.';
COMMENT ON COLUMN model_prices.long_cache_write_per_million IS 'As cache_write_per_million, for such long requests; null: no other price.';
COMMENT ON COLUMN model_prices.long_cache_write_1h_per_million IS 'As cache_write_1h_per_million, for such long requests; null: no other price.';
COMMENT ON COLUMN model_prices.max_output_tokens IS 'Most tokens that one answer of the model can have, for estimates of requests that set no bound; null: unknown.';
COMMENT ON COLUMN model_prices.created_at IS 'When this entry was stored.';

-- One row whose number grows with every change of the catalogue, in the
-- transaction of the change: a copy in memory is current exactly while the
-- number is the one it was read at.
CREATE TABLE price_revision (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint  NOT NULL
);
INSERT INTO price_revision (revision) VALUES (1);
COMMENT ON TABLE  price_revision IS 'One row: the number of the catalogue''s latest change.';
COMMENT ON COLUMN price_revision.only_row IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN price_revision.revision IS 'Grows by one with every statement that changes model_prices.';

-- +goose StatementBegin
CREATE FUNCTION price_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE price_revision SET revision = revision + 1;
    RETURN NULL;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION price_changed() IS 'Trigger: counts the catalogue''s revision up, once a statement.';
CREATE TRIGGER model_prices_revision AFTER INSERT OR UPDATE OR DELETE ON model_prices
    FOR EACH STATEMENT EXECUTE FUNCTION price_changed();
CREATE TRIGGER price_revision_tell AFTER UPDATE ON price_revision
    FOR EACH ROW EXECUTE FUNCTION tell_change('prices', 'revision');

-- +goose Down
DROP TABLE model_prices, price_revision;
DROP FUNCTION price_changed();
