-- The global key-value store complete: who bought what, versions that nobody changes, what an owner may keep.

ALTER TABLE global_kv
    ADD COLUMN bytes bigint NOT NULL GENERATED ALWAYS AS (
        octet_length(short) + coalesce(octet_length(long), 0) + octet_length(public_metadata::text)
        + octet_length(data::text)::bigint) STORED,
    -- When it could be seen first; null where it never could.
    ADD COLUMN approved_at timestamptz;
UPDATE global_kv SET approved_at = last_updated_at WHERE review_state = 'approved';

CREATE FUNCTION global_kv_note_approval() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.approved_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER global_kv_approval BEFORE INSERT OR UPDATE ON global_kv FOR EACH ROW
    WHEN (NEW.review_state = 'approved' AND NEW.approved_at IS NULL)
    EXECUTE FUNCTION global_kv_note_approval();

-- Listings read what is approved only, however many versions wait for review.
CREATE INDEX global_kv_approved ON global_kv (scope, key, version) WHERE review_state = 'approved';
CREATE INDEX global_kv_by_state ON global_kv (review_state, scope, key, version);
CREATE INDEX global_kv_by_owner ON global_kv (owner_id, owner_type) INCLUDE (bytes);

CREATE FUNCTION global_kv_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a published version does not change' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER global_kv_immutable BEFORE UPDATE ON global_kv FOR EACH ROW
    WHEN ((OLD.scope, OLD.key, OLD.version, OLD.owner_type, OLD.owner_id, OLD.short, OLD.long, OLD.public_metadata,
           OLD.data, OLD.public_data)
        IS DISTINCT FROM
          (NEW.scope, NEW.key, NEW.version, NEW.owner_type, NEW.owner_id, NEW.short, NEW.long, NEW.public_metadata,
           NEW.data, NEW.public_data))
    EXECUTE FUNCTION global_kv_refuse_change();

-- Versions that were seen and are deleted: nobody publishes something else under their number.
CREATE TABLE global_kv_retired (
    scope text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    retired_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key, version)
);

-- What was bought cannot be deleted: it stays for its buyers.
CREATE TABLE global_kv_purchases (
    scope text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    owner_type owner_type NOT NULL,
    owner_id snowflake NOT NULL,
    -- what was paid, in the unit of global_kv.price
    price bigint NOT NULL CHECK (price >= 0),
    granted_by text NOT NULL CHECK (octet_length(granted_by) BETWEEN 1 AND 64),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key, version, owner_id, owner_type),
    FOREIGN KEY (scope, key, version) REFERENCES global_kv (scope, key, version) ON DELETE RESTRICT
);
CREATE INDEX global_kv_purchases_by_owner ON global_kv_purchases (owner_id, owner_type);

-- Discord's tokens of users, encrypted; access_token holds those that were taken over in clear until they are encrypted too.
ALTER TABLE users ADD COLUMN access_token_sealed bytea CHECK (octet_length(access_token_sealed) > 0);
CREATE INDEX users_with_clear_token ON users (user_id) WHERE access_token IS NOT NULL;
