-- The key-value store: keys that are due by an index, records by scope in the order of their pages, exact limits.

-- A handler ran and failed, or nobody listens: not before this moment.
ALTER TABLE tenant_kv ADD COLUMN expiry_retry_at timestamptz;

-- When the key is next for a worker to claim; null where it never is: without expiry, or after the last attempt (10, as
-- KV_EXPIRY_ATTEMPTS_MAX). What is claimed or waits stands behind what is due, and costs who looks for due keys nothing.
ALTER TABLE tenant_kv ADD COLUMN due_at timestamptz GENERATED ALWAYS AS (
    CASE WHEN expires_at IS NOT NULL AND expiry_attempts < 10
         THEN greatest(expires_at, expiry_claimed_until, expiry_retry_at) END
) STORED;
DROP INDEX tenant_kv_by_expiry;
CREATE INDEX tenant_kv_due ON tenant_kv (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX tenant_kv_claimed ON tenant_kv (id) WHERE expiry_claimed_until IS NOT NULL;
CREATE INDEX tenant_kv_given_up ON tenant_kv (owner_id, owner_type) WHERE expires_at IS NOT NULL AND expiry_attempts >= 10;

-- All of a tenant's keys in order, for operators. It begins with no column of the index of identities: who looks for one row
-- of a tenant must have one index to look in, or a planner without statistics takes the other and reads all of the tenant's.
DROP INDEX tenant_kv_by_key;
CREATE INDEX tenant_kv_by_key ON tenant_kv ((owner_type || owner_id), key, id);

DROP INDEX tenant_kv_to_resume;
CREATE INDEX tenant_kv_to_resume ON tenant_kv (owner_id, owner_type, id) WHERE resume;
CREATE INDEX tenant_kv_to_resume_by_id ON tenant_kv (id) WHERE resume;

-- 16 bytes of a scope, whatever its length. Whoever finds a record by them looks at its scopes too.
CREATE FUNCTION kv_scope(scope text) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN substring(sha256(convert_to(scope, 'UTF8')) FOR 16);

-- Each record under each of its scopes, in the order of pages: a search by scope reads what it finds and no more.
CREATE TABLE tenant_kv_scopes (
    owner_id snowflake NOT NULL,
    owner_type owner_type NOT NULL,
    scope bytea NOT NULL,
    key text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    PRIMARY KEY (owner_id, owner_type, scope, key, id)
);
INSERT INTO tenant_kv_scopes SELECT owner_id, owner_type, kv_scope(scope), key, id FROM tenant_kv, unnest(scopes) AS scope;

-- The counts of a statement's keys are added up: one row changes once, however many keys come or go.
DROP TRIGGER tenant_kv_come_or_gone ON tenant_kv;

CREATE FUNCTION tenant_kv_come() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tenant_kv_scopes SELECT owner_id, owner_type, kv_scope(scope), key, id FROM come, unnest(scopes) AS scope;
    INSERT INTO tenant_kv_usage AS used (owner_type, owner_id, keys, bytes)
    SELECT owner_type, owner_id, count(*), sum(bytes) FROM come GROUP BY owner_type, owner_id ORDER BY owner_id, owner_type
    ON CONFLICT (owner_id, owner_type) DO UPDATE SET keys = used.keys + excluded.keys, bytes = used.bytes + excluded.bytes;
    RETURN NULL;
END $$;
CREATE TRIGGER tenant_kv_come AFTER INSERT ON tenant_kv REFERENCING NEW TABLE AS come
    FOR EACH STATEMENT EXECUTE FUNCTION tenant_kv_come();

CREATE FUNCTION tenant_kv_gone() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    one record;
    owner record;
BEGIN
    -- One by one: a plan for many rows, once made, would read the whole table for the next single one.
    FOR one IN SELECT owner_id, owner_type, key, id, scopes FROM gone LOOP
        DELETE FROM tenant_kv_scopes AS s WHERE s.owner_id = one.owner_id AND s.owner_type = one.owner_type
            AND s.scope = ANY (ARRAY(SELECT kv_scope(scope) FROM unnest(one.scopes) AS scope))
            AND s.key = one.key AND s.id = one.id;
    END LOOP;
    FOR owner IN
        SELECT owner_type, owner_id, count(*) AS keys, sum(bytes) AS bytes FROM gone
        GROUP BY owner_type, owner_id ORDER BY owner_id, owner_type
    LOOP
        UPDATE tenant_kv_usage AS used SET keys = used.keys - owner.keys, bytes = used.bytes - owner.bytes
        WHERE used.owner_id = owner.owner_id AND used.owner_type = owner.owner_type;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER tenant_kv_gone AFTER DELETE ON tenant_kv REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION tenant_kv_gone();

CREATE FUNCTION tenant_kv_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM tenant_kv_scopes WHERE owner_id = OLD.owner_id AND owner_type = OLD.owner_type AND key = OLD.key
        AND id = OLD.id AND scope = ANY (ARRAY(SELECT kv_scope(scope) FROM unnest(OLD.scopes) AS scope));
    INSERT INTO tenant_kv_scopes
    SELECT NEW.owner_id, NEW.owner_type, kv_scope(scope), NEW.key, NEW.id FROM unnest(NEW.scopes) AS scope;
    RETURN NULL;
END $$;
CREATE TRIGGER tenant_kv_moved AFTER UPDATE ON tenant_kv
    FOR EACH ROW WHEN (OLD.identity IS DISTINCT FROM NEW.identity) EXECUTE FUNCTION tenant_kv_moved();

-- Writes one key, if it is the version that is expected (0: none) or none is, and says what version there is then.
-- With by_id the key must have this id already, or nothing is written and null said; else the id is for a new key.
-- Without room nothing is written: over says which limit ("bytes" or "keys"), and would_be what the tenant would hold.
-- The limits hold exactly: whoever makes or deletes keys of a tenant locks its usage first, until the transaction ends. So
-- several writes of one transaction wait for nobody who waits for them.
CREATE FUNCTION kv_set(
    in_owner_id text, in_owner_type text, in_key text, in_scopes text[], in_id text, by_id boolean, in_value jsonb,
    in_expires_at timestamptz, in_resume boolean, in_version bigint, bytes_max bigint, keys_max bigint,
    OUT written boolean, OUT version bigint, OUT over text, OUT would_be bigint
) LANGUAGE plpgsql AS $$
DECLARE
    was record;
    used record;
    more bigint;
BEGIN
    SELECT u.keys, u.bytes INTO used FROM tenant_kv_usage AS u
    WHERE u.owner_id = in_owner_id AND u.owner_type = in_owner_type FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO tenant_kv_usage (owner_type, owner_id, keys, bytes) VALUES (in_owner_type, in_owner_id, 0, 0)
        ON CONFLICT DO NOTHING;
        SELECT u.keys, u.bytes INTO used FROM tenant_kv_usage AS u
        WHERE u.owner_id = in_owner_id AND u.owner_type = in_owner_type FOR UPDATE;
    END IF;
    SELECT kv.id, kv.version, kv.bytes INTO was FROM tenant_kv AS kv
    WHERE kv.owner_id = in_owner_id AND kv.owner_type = in_owner_type AND kv.identity = kv_identity(in_key, in_scopes)
    FOR NO KEY UPDATE;
    IF by_id AND was.id IS DISTINCT FROM in_id THEN
        RETURN;
    END IF;
    written := false;
    version := coalesce(was.version, 0);
    IF in_version <> version THEN
        RETURN;
    END IF;
    more := kv_bytes(in_key, in_scopes, in_value) - coalesce(was.bytes, 0);
    IF more > 0 AND used.bytes + more > bytes_max THEN
        over := 'bytes';
        would_be := used.bytes + more;
        RETURN;
    ELSIF was.id IS NULL AND used.keys >= keys_max THEN
        over := 'keys';
        would_be := used.keys + 1;
        RETURN;
    END IF;
    written := true;
    version := version + 1;
    IF was.id IS NULL THEN
        INSERT INTO tenant_kv (id, owner_id, owner_type, key, scopes, value, expires_at, resume)
        VALUES (in_id, in_owner_id, in_owner_type, in_key, in_scopes, in_value, in_expires_at, in_resume);
    ELSE
        UPDATE tenant_kv AS kv SET value = in_value, version = was.version + 1, expires_at = in_expires_at,
            resume = in_resume, expiry_attempts = 0, expiry_claimed_until = NULL, expiry_retry_at = NULL,
            last_updated_at = now()
        WHERE kv.id = was.id;
    END IF;
END $$;
