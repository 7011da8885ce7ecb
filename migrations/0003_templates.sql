-- Versions with number, content hash and size; what was deployed when; what was removed; the shop.

-- Whatever a row of files holds that is no hash is left out, so that one bad row hurts no other.
CREATE FUNCTION file_hashes(files jsonb) RETURNS bytea[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY(
        SELECT DISTINCT decode(file.hash #>> '{}', 'hex')
        FROM jsonb_each(CASE jsonb_typeof(files) WHEN 'object' THEN files ELSE '{}' END) AS file (path, hash)
        WHERE jsonb_typeof(file.hash) = 'string' AND file.hash #>> '{}' ~ '^[0-9a-f]{64}$'
        ORDER BY 1
    );

-- Same entry, paths and sources, same digest: jsonb has one order of keys.
CREATE FUNCTION files_digest(entry text, files jsonb) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN sha256(convert_to(entry || E'\n' || files::text, 'UTF8'));

ALTER TABLE template_versions
    -- counts from 1 within a template, and goes on after its removal
    ADD COLUMN number bigint,
    ADD COLUMN digest bytea NOT NULL GENERATED ALWAYS AS (files_digest(entry, files)) STORED,
    ADD COLUMN hashes bytea[] NOT NULL GENERATED ALWAYS AS (file_hashes(files)) STORED,
    -- of paths and sources
    ADD COLUMN bytes bigint NOT NULL DEFAULT 0,
    -- why it cannot run; null if nothing is known against it
    ADD COLUMN error text;

UPDATE template_versions v SET
    number = counted.number,
    bytes = counted.bytes,
    error = CASE WHEN v.compiles THEN NULL ELSE 'it does not compile' END
FROM (
    SELECT of.id,
        row_number() OVER (PARTITION BY of.owner_id, of.owner_type, of.template ORDER BY of.id) AS number,
        octet_length(of.files::text) + coalesce(
            (SELECT sum(octet_length(s.source)) FROM sources s WHERE s.hash = ANY (of.hashes)), 0
        ) AS bytes
    FROM template_versions of
) AS counted
WHERE counted.id = v.id;

ALTER TABLE template_versions ALTER COLUMN number SET NOT NULL;
DROP INDEX template_versions_by_template;
CREATE UNIQUE INDEX template_versions_by_number ON template_versions (owner_id, owner_type, template, number);
-- For what a tenant's versions take together, without reading them.
CREATE INDEX template_versions_by_age ON template_versions (owner_id, owner_type, id) INCLUDE (template, bytes);
-- For the collector of sources: does any version refer to this one?
CREATE INDEX template_versions_by_hash ON template_versions USING gin (hashes);

UPDATE templates SET shop_ref = NULL WHERE deployed_version IS NOT NULL;
ALTER TABLE templates
    ADD COLUMN shop_name text COLLATE "C" GENERATED ALWAYS AS (split_part(substr(shop_ref, 7), '#', 1)) STORED,
    ADD COLUMN shop_version text COLLATE "C" GENERATED ALWAYS AS (split_part(substr(shop_ref, 7), '#', 2)) STORED,
    ADD CONSTRAINT templates_run_one_thing CHECK (deployed_version IS NULL OR shop_ref IS NULL);
CREATE INDEX templates_by_shop ON templates (shop_name, shop_version) WHERE shop_ref IS NOT NULL;

-- What ran, in order. A roll-back undoes the last ones; what is newest of those not undone runs.
CREATE TABLE template_deployments (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner_type owner_type NOT NULL,
    owner_id snowflake NOT NULL,
    template text COLLATE "C" NOT NULL,
    version_id bigint REFERENCES template_versions (id) ON DELETE CASCADE,
    shop_ref text,
    author text,
    deployed_at timestamptz NOT NULL DEFAULT now(),
    undone_at timestamptz,
    CHECK ((version_id IS NULL) <> (shop_ref IS NULL))
);
CREATE INDEX template_deployments_by_template ON template_deployments (owner_id, owner_type, template, id);
CREATE INDEX template_deployments_by_version ON template_deployments (version_id);

INSERT INTO template_deployments (owner_type, owner_id, template, version_id, deployed_at)
SELECT owner_type, owner_id, name, deployed_version, last_updated_at FROM templates
WHERE deployed_version IS NOT NULL ORDER BY last_updated_at;

-- Rows of templates as they were removed, so that they come back with their capabilities and nothing more.
CREATE TABLE removed_templates (
    owner_type owner_type NOT NULL,
    owner_id snowflake NOT NULL,
    name text COLLATE "C" NOT NULL,
    settings jsonb NOT NULL,
    removed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_id, owner_type, name)
);

-- Sources that lost a reference and may have none left: the collector looks at these and no others.
CREATE TABLE loose_sources (
    hash bytea PRIMARY KEY
);

CREATE TABLE shop_templates (
    name text COLLATE "C" NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 32),
    version text COLLATE "C" NOT NULL CHECK (octet_length(version) BETWEEN 1 AND 25),
    -- the version as bytes that sort as versions do
    position bytea NOT NULL,
    owner_type text NOT NULL CHECK (owner_type IN ('guild', 'user', 'staff')),
    owner_id text NOT NULL,
    short text NOT NULL DEFAULT '' CHECK (octet_length(short) <= 512),
    long text CHECK (octet_length(long) <= 65536),
    -- as in template_versions
    files jsonb NOT NULL CHECK (jsonb_typeof(files) = 'object'),
    hashes bytea[] NOT NULL GENERATED ALWAYS AS (file_hashes(files)) STORED,
    digest bytea NOT NULL GENERATED ALWAYS AS (files_digest(entry, files)) STORED,
    bytes bigint NOT NULL,
    entry text NOT NULL DEFAULT 'init',
    language text NOT NULL DEFAULT 'luau',
    -- what a tenant's row has where it says nothing else
    events text[] NOT NULL,
    allowed_caps text[] NOT NULL,
    published_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    review_state text NOT NULL DEFAULT 'pending' CHECK (review_state IN ('pending', 'approved', 'denied')),
    review_note text NOT NULL DEFAULT '' CHECK (octet_length(review_note) <= 2000),
    reviewed_by text,
    reviewed_at timestamptz,
    withdrawn_at timestamptz,
    PRIMARY KEY (name, version)
);
CREATE UNIQUE INDEX shop_templates_by_position ON shop_templates (name, position);
CREATE INDEX shop_templates_by_hash ON shop_templates USING gin (hashes);

-- A version is what it was when it was reviewed; only the review itself changes.
CREATE FUNCTION shop_version_is_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'version % of % is published and does not change', OLD.version, OLD.name
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER shop_version_is_fixed
    BEFORE UPDATE OF name, version, position, files, bytes, entry, language, events, allowed_caps ON shop_templates
    FOR EACH ROW EXECUTE FUNCTION shop_version_is_fixed();
