-- +goose Up

-- Who is told of what happens, and what they are told. An event is written in the
-- transaction that makes it true, or by a pass that notes it in alerts in the same
-- transaction; its deliveries are made with it, so that none is forgotten. Events that no
-- webhook asks for are not written.
CREATE TABLE webhooks (
    id           uuid        PRIMARY KEY,
    url          text        NOT NULL CHECK (char_length(url) BETWEEN 1 AND 2000),
    format       text        NOT NULL CHECK (
        format IN ('standard', 'cloudevents', 'slack', 'discord', 'feishu', 'dingtalk', 'wecom')),
    events       text[]      NOT NULL CHECK (cardinality(events) > 0),
    secret       bytea       NOT NULL,
    is_active    boolean     NOT NULL DEFAULT true,
    disabled_for text        NOT NULL DEFAULT '',
    not_before   timestamptz NOT NULL DEFAULT '0001-01-01T00:00:00Z',
    created_by   text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE  webhooks IS 'Addresses that are told of events, by HTTP.';
COMMENT ON COLUMN webhooks.id IS 'Identity of the webhook.';
COMMENT ON COLUMN webhooks.url IS 'Where deliveries are sent. Chat services keep a secret in it, so only administrators see all of it.';
COMMENT ON COLUMN webhooks.format IS 'What a delivery''s body looks like: standard and cloudevents are for programs, the others are messages for the chat of that name.';
COMMENT ON COLUMN webhooks.events IS 'Types of events that it is told of.';
COMMENT ON COLUMN webhooks.secret IS 'The secret that deliveries are signed with, sealed by a key that comes from a pepper.';
COMMENT ON COLUMN webhooks.is_active IS 'False: nothing is sent, and nothing new is kept for it.';
COMMENT ON COLUMN webhooks.disabled_for IS 'Why the service itself has switched it off; empty: it has not.';
COMMENT ON COLUMN webhooks.not_before IS 'Nothing is sent before this instant: a try has failed, or the receiver asked for time.';
COMMENT ON COLUMN webhooks.created_by IS 'Name of the access token that made it.';
COMMENT ON COLUMN webhooks.created_at IS 'When it was made.';
COMMENT ON COLUMN webhooks.updated_at IS 'When it was last changed.';

CREATE TABLE webhook_events (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    type       text        NOT NULL,
    at         timestamptz NOT NULL,
    key_id     uuid,
    webhook_id uuid        REFERENCES webhooks ON DELETE CASCADE,
    data       jsonb       NOT NULL
);
CREATE INDEX webhook_events_at ON webhook_events (at);
CREATE INDEX webhook_events_key ON webhook_events (key_id);
-- Which of them tell of usage of a key, for a purge.
CREATE INDEX webhook_events_usage ON webhook_events USING gin ((data -> 'events') jsonb_path_ops)
 WHERE type = 'usage.recorded';
CREATE INDEX webhook_events_webhook ON webhook_events (webhook_id) WHERE webhook_id IS NOT NULL;
COMMENT ON TABLE  webhook_events IS 'The outbox: what has happened that some webhook is told of. Kept for 30 days.';
COMMENT ON COLUMN webhook_events.id IS 'Identity of the event; every delivery of it carries it, so that receivers can drop repeats.';
COMMENT ON COLUMN webhook_events.type IS 'What happened, for example key.limit_reached.';
COMMENT ON COLUMN webhook_events.at IS 'When it became true, or was found to be.';
COMMENT ON COLUMN webhook_events.key_id IS 'The key it is about; null: none, or one that was purged.';
COMMENT ON COLUMN webhook_events.webhook_id IS 'The only webhook it is for, of a test; null: all that ask for its type.';
COMMENT ON COLUMN webhook_events.data IS 'What receivers are told, without type and time.';

CREATE TABLE webhook_deliveries (
    webhook_id  uuid        NOT NULL REFERENCES webhooks ON DELETE CASCADE,
    event_id    uuid        NOT NULL REFERENCES webhook_events ON DELETE CASCADE,
    state       text        NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts    integer     NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    next_at     timestamptz NOT NULL DEFAULT now(),
    last_status integer     NOT NULL DEFAULT 0,
    last_error  text        NOT NULL DEFAULT '',
    ended_at    timestamptz,
    PRIMARY KEY (webhook_id, event_id)
);
CREATE INDEX webhook_deliveries_event ON webhook_deliveries (event_id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, next_at) WHERE state = 'pending';
COMMENT ON TABLE  webhook_deliveries IS 'What each webhook has been told, or is still to be told. A delivery ends as delivered, or as dead after three days of tries.';
COMMENT ON COLUMN webhook_deliveries.webhook_id IS 'Who is told.';
COMMENT ON COLUMN webhook_deliveries.event_id IS 'What.';
COMMENT ON COLUMN webhook_deliveries.state IS 'pending: to be sent. delivered: the receiver said so. dead: given up.';
COMMENT ON COLUMN webhook_deliveries.attempts IS 'Tries that were begun.';
COMMENT ON COLUMN webhook_deliveries.created_at IS 'When the event was written, or the delivery was asked for again.';
COMMENT ON COLUMN webhook_deliveries.next_at IS 'Not before this instant is it tried next. While it is tried, the instant at which another replica may.';
COMMENT ON COLUMN webhook_deliveries.last_status IS 'HTTP status of the latest try; 0: there was no answer, or no try.';
COMMENT ON COLUMN webhook_deliveries.last_error IS 'Why the latest try failed; empty: it did not.';
COMMENT ON COLUMN webhook_deliveries.ended_at IS 'When it was delivered or given up; null: it is pending.';

CREATE TABLE alerts (
    subject   text        NOT NULL,
    kind      text        NOT NULL,
    threshold integer     NOT NULL,
    period    text        NOT NULL,
    at        timestamptz NOT NULL,
    PRIMARY KEY (subject, kind, threshold, period)
);
CREATE INDEX alerts_at ON alerts (at);
COMMENT ON TABLE  alerts IS 'What has been told once and is not told again: whoever inserts the row writes the event.';
COMMENT ON COLUMN alerts.subject IS 'Id of the key, or name of the model.';
COMMENT ON COLUMN alerts.kind IS 'Name of the limit, expiry, or unpriced.';
COMMENT ON COLUMN alerts.threshold IS 'Percent of the limit, days before the end, or 0.';
COMMENT ON COLUMN alerts.period IS 'Start of the window, day, week or month that it was true of; of a total its limit, of an end its instant.';
COMMENT ON COLUMN alerts.at IS 'When it was found.';

CREATE TABLE alert_state (
    kind      text        PRIMARY KEY CHECK (kind IN ('limits', 'unpriced', 'expiry', 'usage')),
    chunk     bigint      NOT NULL,
    opened_at timestamptz NOT NULL,
    looked_at timestamptz NOT NULL
);
COMMENT ON TABLE  alert_state IS 'How far each pass that looks for what webhooks are told of has come.';
COMMENT ON COLUMN alert_state.kind IS 'What it looks for.';
COMMENT ON COLUMN alert_state.chunk IS 'The chunk of the ledger that was open when it last looked: it has seen all rows of earlier ones.';
COMMENT ON COLUMN alert_state.opened_at IS 'When that chunk was opened: no row of it, or of a later one, was received before.';
COMMENT ON COLUMN alert_state.looked_at IS 'When it last looked.';
INSERT INTO alert_state (kind, chunk, opened_at, looked_at)
SELECT k.kind, 0, '0001-01-01T00:00:00Z', '0001-01-01T00:00:00Z'
  FROM (VALUES ('limits'), ('unpriced'), ('expiry'), ('usage')) AS k (kind);

-- A webhook that is being deleted gets none: waiting for it would end in an error of whoever
-- writes the event.
-- +goose StatementBegin
CREATE FUNCTION make_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_deliveries (webhook_id, event_id)
    SELECT w.id, m.id
      FROM (SELECT x.id, x.is_active, x.events FROM webhooks AS x ORDER BY x.id FOR KEY SHARE SKIP LOCKED) AS w
      JOIN made AS m ON CASE WHEN m.webhook_id IS NULL THEN w.is_active AND m.type = ANY (w.events)
                             ELSE w.id = m.webhook_id END
     ORDER BY w.id, m.id;
    RETURN NULL;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION make_deliveries() IS 'Trigger: makes the deliveries of events in the statement that writes them.';
CREATE TRIGGER webhook_events_deliver AFTER INSERT ON webhook_events
    REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION make_deliveries();

-- tell_key_event writes what happened to a key. What the transaction is for (see AuditBegin)
-- tells a rotation and an expiry from other changes. Fields are named as the API names them.
-- +goose StatementBegin
CREATE FUNCTION tell_key_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    verb    text := coalesce(current_setting('keyledger.verb', true), '');
    what    text;
    changed jsonb;
BEGIN
    what := CASE
        WHEN TG_OP = 'INSERT' THEN 'key.created'
        WHEN TG_OP = 'DELETE' THEN CASE WHEN OLD.deleted_at IS NULL THEN 'key.deleted' END
        WHEN OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL THEN 'key.deleted'
        WHEN verb = 'rotate' THEN 'key.rotated'
        WHEN verb = 'expire' THEN 'key.expired'
        ELSE 'key.updated'
    END;
    IF what IS NULL OR NOT EXISTS (SELECT FROM webhooks AS w WHERE w.is_active AND what = ANY (w.events)) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' THEN
        INSERT INTO webhook_events (type, at, data)
        VALUES (what, now(), jsonb_build_object('keyId', OLD.id, 'purged', true));
        RETURN NULL;
    END IF;
    IF what = 'key.updated' THEN
        SELECT jsonb_agg(p.name ORDER BY p.name) INTO changed
          FROM jsonb_each(to_jsonb(OLD)) AS o
         CROSS JOIN LATERAL (
               SELECT string_agg(CASE WHEN u.n = 1 THEN u.part ELSE initcap(u.part) END, '' ORDER BY u.n) AS name
                 FROM unnest(string_to_array(o.key, '_')) WITH ORDINALITY AS u (part, n)
         ) AS p
         WHERE o.value IS DISTINCT FROM to_jsonb(NEW) -> o.key
           AND o.key NOT IN ('version', 'updated_at', 'tag_set', 'restricted_model_names', 'allowed_model_names');
        IF changed IS NULL THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO webhook_events (type, at, key_id, data)
    VALUES (what, now(), NEW.id, jsonb_strip_nulls(jsonb_build_object(
        'keyId', NEW.id, 'name', NEW.name, 'tags', to_jsonb(NEW.tags), 'expiresAt', NEW.expires_at,
        'actor', nullif(current_setting('keyledger.actor', true), ''), 'changed', changed)));
    RETURN NULL;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION tell_key_event() IS 'Trigger: writes the event of a change of a key, in its transaction, if some webhook asks for it.';
CREATE TRIGGER api_keys_event AFTER INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION tell_key_event();

CREATE TRIGGER webhooks_audit AFTER INSERT OR UPDATE OR DELETE ON webhooks
    FOR EACH ROW EXECUTE FUNCTION audit_row('webhook', 'id', 'secret', 'url');

-- +goose Down
DROP TRIGGER api_keys_event ON api_keys;
DROP TABLE alert_state, alerts, webhook_deliveries, webhook_events, webhooks;
DROP FUNCTION tell_key_event();
DROP FUNCTION make_deliveries();
