-- The tables of pytw. Names follow the reference where it has them; owner_id is a snowflake in decimal.

-- A snowflake without leading zeros that fits 63 bits, so that it can be routed by ((owner_id::bigint >> 22) % workers).
CREATE DOMAIN snowflake AS text COLLATE "C"
    CHECK (CASE WHEN VALUE ~ '^(0|[1-9][0-9]{0,18})$' THEN VALUE::numeric < 9223372036854775808 ELSE false END);

CREATE DOMAIN owner_type AS text COLLATE "C"
    CHECK (VALUE IN ('guild', 'user'));

CREATE FUNCTION is_sorted_set(items text[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN items = ARRAY(SELECT DISTINCT item COLLATE "C" FROM unnest(items) AS item ORDER BY 1);

-- Key and scopes in 32 bytes: an index entry of the texts themselves may exceed what a page holds.
CREATE FUNCTION kv_identity(key text, scopes text[]) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN sha256(convert_to(array_to_json(array_prepend(key, scopes))::text, 'UTF8'));

-- What a key counts for in its tenant's room: its texts, the value's as PostgreSQL writes it.
CREATE FUNCTION kv_bytes(key text, scopes text[], value jsonb) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN octet_length(key) + octet_length(array_to_json(scopes)::text) + octet_length(value::text)::bigint;

CREATE TABLE tenant_state (
    owner_type owner_type NOT NULL,
    owner_id snowflake NOT NULL,
    events text[] NOT NULL DEFAULT '{}' CHECK (is_sorted_set(events)),
    banned boolean NOT NULL DEFAULT false,
    data jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(data) = 'object'),
    revision bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_id, owner_type)
);

CREATE TABLE tenant_kv (
    id text COLLATE "C" PRIMARY KEY,
    owner_type owner_type NOT NULL,
    owner_id snowflake NOT NULL,
    key text COLLATE "C" NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 512),
    scopes text[] COLLATE "C" NOT NULL CHECK (cardinality(scopes) >= 1 AND is_sorted_set(scopes)),
    identity bytea NOT NULL GENERATED ALWAYS AS (kv_identity(key, scopes)) STORED,
    value jsonb NOT NULL,
    bytes bigint NOT NULL GENERATED ALWAYS AS (kv_bytes(key, scopes, value)) STORED,
    version bigint NOT NULL DEFAULT 1,
    expires_at timestamptz,
    expiry_attempts integer NOT NULL DEFAULT 0 CHECK (expiry_attempts >= 0),
    expiry_claimed_until timestamptz,
    resume boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (owner_id, owner_type, identity)
);
-- For get, and for find in the order of its pages.
CREATE INDEX tenant_kv_by_key ON tenant_kv (owner_id, owner_type, key, id);
CREATE INDEX tenant_kv_by_expiry ON tenant_kv (expires_at, id) WHERE expires_at IS NOT NULL;
CREATE INDEX tenant_kv_to_resume ON tenant_kv (owner_id, owner_type) WHERE resume;

-- What each tenant's keys take together. Kept by triggers, whoever writes; they run after their statement, so that all
-- take their locks in one order: keys first, then this row.
CREATE TABLE tenant_kv_usage (
    owner_type owner_type NOT NULL,
    owner_id snowflake NOT NULL,
    keys bigint NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (owner_id, owner_type)
) WITH (fillfactor = 50);

CREATE FUNCTION tenant_kv_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tenant_kv_usage AS used VALUES (NEW.owner_type, NEW.owner_id, 1, NEW.bytes)
        ON CONFLICT (owner_id, owner_type) DO UPDATE SET keys = used.keys + 1, bytes = used.bytes + NEW.bytes;
    ELSIF TG_OP = 'UPDATE' THEN
        UPDATE tenant_kv_usage SET bytes = bytes + NEW.bytes - OLD.bytes
        WHERE owner_id = NEW.owner_id AND owner_type = NEW.owner_type;
    ELSE
        UPDATE tenant_kv_usage SET keys = keys - 1, bytes = bytes - OLD.bytes
        WHERE owner_id = OLD.owner_id AND owner_type = OLD.owner_type;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER tenant_kv_come_or_gone AFTER INSERT OR DELETE ON tenant_kv
    FOR EACH ROW EXECUTE FUNCTION tenant_kv_count();
CREATE TRIGGER tenant_kv_resized AFTER UPDATE ON tenant_kv
    FOR EACH ROW WHEN (OLD.bytes IS DISTINCT FROM NEW.bytes) EXECUTE FUNCTION tenant_kv_count();

CREATE TABLE sources (
    hash bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    source text NOT NULL
);

CREATE TABLE template_versions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner_type owner_type NOT NULL,
    owner_id snowflake NOT NULL,
    template text COLLATE "C" NOT NULL,
    -- path -> hash of the source in hexadecimal digits
    files jsonb NOT NULL CHECK (jsonb_typeof(files) = 'object'),
    entry text NOT NULL DEFAULT 'init',
    language text NOT NULL DEFAULT 'luau',
    -- what the entry listens for, as it was evaluated; null where it was not
    events text[],
    compiles boolean NOT NULL DEFAULT true,
    author text,
    message text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX template_versions_by_template ON template_versions (owner_id, owner_type, template, id);

CREATE TABLE templates (
    owner_type owner_type NOT NULL,
    owner_id snowflake NOT NULL,
    name text COLLATE "C" NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 64),
    -- what runs; null for a template that was only drafted
    deployed_version bigint REFERENCES template_versions (id),
    events text[] NOT NULL DEFAULT '{}',
    events_override text[],
    allowed_caps text[] NOT NULL DEFAULT '{*}',
    error_channel text,
    paused boolean NOT NULL DEFAULT false,
    shop_ref text,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_id, owner_type, name)
);
CREATE INDEX templates_by_version ON templates (deployed_version);

CREATE TABLE template_secrets (
    owner_type owner_type NOT NULL,
    owner_id snowflake NOT NULL,
    template text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 64),
    ciphertext bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_id, owner_type, template, name)
);

CREATE TABLE gateway_cursors (
    shards integer NOT NULL CHECK (shards > 0),
    shard integer NOT NULL CHECK (shard >= 0),
    session_id text NOT NULL,
    resume_url text NOT NULL,
    sequence bigint NOT NULL,
    done_above bigint[] NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shards, shard),
    CHECK (shard < shards)
);

CREATE TABLE global_kv (
    key text COLLATE "C" NOT NULL CHECK (key ~ '^[A-Za-z0-9_-][A-Za-z0-9._-]{1,62}[A-Za-z0-9_-]$'),
    version integer NOT NULL CHECK (version > 0),
    scope text COLLATE "C" NOT NULL CHECK (octet_length(scope) BETWEEN 1 AND 64),
    owner_type text NOT NULL CHECK (owner_type IN ('guild', 'user', 'staff')),
    owner_id text NOT NULL,
    short text NOT NULL CHECK (octet_length(short) <= 512),
    long text CHECK (octet_length(long) <= 65536),
    public_metadata jsonb NOT NULL DEFAULT '{}',
    data jsonb NOT NULL,
    public_data boolean NOT NULL DEFAULT false,
    price bigint CHECK (price >= 0),
    review_state text NOT NULL DEFAULT 'pending' CHECK (review_state IN ('pending', 'approved', 'denied')),
    created_at timestamptz NOT NULL DEFAULT now(),
    last_updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key, version),
    CHECK (price IS NULL OR owner_type = 'staff')
);

CREATE TABLE users (
    user_id snowflake PRIMARY KEY,
    state text NOT NULL DEFAULT 'normal',
    vote_banned boolean NOT NULL DEFAULT false,
    guilds_cache jsonb,
    guilds_cached_at timestamptz,
    access_token text,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE web_api_tokens (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id snowflake NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    type text NOT NULL CHECK (type IN ('login', 'app_login', 'api')),
    name text CHECK (octet_length(name) <= 256),
    -- sha256 of the token, which is random and long: it needs no salt
    token_hash bytea NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    expiry timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX web_api_tokens_by_user ON web_api_tokens (user_id, created_at);
CREATE INDEX web_api_tokens_by_expiry ON web_api_tokens (expiry);
