-- What tenants have in the object storage. The bytes are in its bucket, under a path that follows from owner and key.

CREATE TABLE tenant_objects (
    owner_type owner_type NOT NULL,
    owner_id snowflake NOT NULL,
    key text COLLATE "C" NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 2048),
    -- what the bucket holds; null while the first write is under way
    size bigint CHECK (size >= 0),
    sha256 bytea CHECK (octet_length(sha256) = 32),
    -- what it may hold already instead: a write that has not been seen to end
    pending_size bigint CHECK (pending_size >= 0),
    pending_sha256 bytea CHECK (octet_length(pending_sha256) = 32),
    -- being deleted
    doomed boolean NOT NULL DEFAULT false,
    changing_since timestamptz,
    -- what it counts for
    bytes bigint NOT NULL GENERATED ALWAYS AS (greatest(size, pending_size)) STORED,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_updated_at timestamptz NOT NULL DEFAULT now(),
    -- also the order of pages
    PRIMARY KEY (owner_id, owner_type, key),
    CHECK ((size IS NULL) = (sha256 IS NULL)),
    CHECK ((pending_size IS NULL) = (pending_sha256 IS NULL)),
    CHECK ((changing_since IS NULL) = (pending_sha256 IS NULL AND NOT doomed))
);
CREATE INDEX tenant_objects_changing ON tenant_objects (owner_id, owner_type, changing_since)
    WHERE changing_since IS NOT NULL;

-- What each tenant's objects take together. Kept by triggers, whoever writes; they run after their statement, so that all
-- take their locks in one order: objects first, then this row.
CREATE TABLE tenant_objects_usage (
    owner_type owner_type NOT NULL,
    owner_id snowflake NOT NULL,
    objects bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    -- objects that were stored before there were rows of them have theirs
    adopted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (owner_id, owner_type)
) WITH (fillfactor = 50);

CREATE FUNCTION tenant_objects_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tenant_objects_usage AS used (owner_type, owner_id, objects, bytes)
        VALUES (NEW.owner_type, NEW.owner_id, 1, NEW.bytes)
        ON CONFLICT (owner_id, owner_type) DO UPDATE SET objects = used.objects + 1, bytes = used.bytes + NEW.bytes;
    ELSIF TG_OP = 'UPDATE' THEN
        UPDATE tenant_objects_usage SET bytes = bytes + NEW.bytes - OLD.bytes
        WHERE owner_id = NEW.owner_id AND owner_type = NEW.owner_type;
    ELSE
        UPDATE tenant_objects_usage SET objects = objects - 1, bytes = bytes - OLD.bytes
        WHERE owner_id = OLD.owner_id AND owner_type = OLD.owner_type;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER tenant_objects_come_or_gone AFTER INSERT OR DELETE ON tenant_objects
    FOR EACH ROW EXECUTE FUNCTION tenant_objects_count();
CREATE TRIGGER tenant_objects_resized AFTER UPDATE ON tenant_objects
    FOR EACH ROW WHEN (OLD.bytes IS DISTINCT FROM NEW.bytes) EXECUTE FUNCTION tenant_objects_count();
