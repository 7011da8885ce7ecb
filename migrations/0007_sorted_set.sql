-- The same answers as before without a query for each: it is asked for every key that is written.
CREATE OR REPLACE FUNCTION is_sorted_set(items text[]) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF cardinality(items) = 0 THEN
        RETURN true;
    ELSIF array_ndims(items) > 1 OR array_lower(items, 1) <> 1 THEN
        RETURN false;
    END IF;
    -- A null sorts last.
    FOR place IN 2 .. cardinality(items) LOOP
        IF items[place - 1] IS NULL OR items[place - 1] >= items[place] COLLATE "C" THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END $$;
