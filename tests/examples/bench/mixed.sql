-- Ten tables in a tree of foreign keys; half inserts, a third updates, the rest deletes; 10 to 50 rows a transaction.
DO $$
BEGIN
  FOR k IN 0..9 LOOP
    EXECUTE format(
      'CREATE TABLE m%s (id bigint PRIMARY KEY, parent_id bigint %s, status int NOT NULL DEFAULT 0, name text NOT NULL,
         note text, amount numeric(12,2), meta jsonb, updated_at timestamptz)',
      k, CASE WHEN k > 0 THEN format('REFERENCES m%s (id)', (k - 1) / 3) ELSE '' END);
    IF k > 0 THEN EXECUTE format('CREATE INDEX ON m%s (parent_id)', k); END IF;
    EXECUTE format(
      'INSERT INTO m%s SELECT i, %s, i %% 7, ''seed '' || i, NULL, i, ''{}'', ''2026-01-01 00:00:00+00''
         FROM generate_series(1, 2000) i', k, CASE WHEN k > 0 THEN 'i' ELSE 'NULL' END);
  END LOOP;
END $$;

CREATE PROCEDURE load(changes bigint) LANGUAGE plpgsql AS $$
DECLARE
  newest bigint[] := array_fill(2000::bigint, ARRAY[10]);
  oldest bigint[] := array_fill(1::bigint, ARRAY[10]);
  done bigint := 0; rows int; dice float8; k int; up int; id bigint; parent bigint;
  at timestamptz := '2026-02-01 00:00:00+00';
BEGIN
  PERFORM setseed(0.42);
  WHILE done < changes LOOP
    rows := 10 + floor(random() * 41)::int;
    at := at + interval '70 milliseconds';
    FOR _ IN 1..rows LOOP
      dice := random();
      k := 1 + floor(random() * 10)::int;
      IF dice < 0.50 THEN
        newest[k] := newest[k] + 1;
        id := newest[k];
        up := (k - 2) / 3 + 1;
        parent := CASE WHEN k > 1 THEN oldest[up] + floor(random() * (newest[up] - oldest[up]))::bigint END;
        EXECUTE format('INSERT INTO m%s VALUES ($1, $2, $3, $4, $5, $6, $7, $8)', k - 1)
          USING id, parent, (id % 7)::int, 'customer ' || md5(id::text),
            CASE WHEN id % 3 = 0 THEN E'a note with "quotes", a \\ and an ü ' || md5((id * 3)::text) END,
            (random() * 100000)::numeric(12,2),
            jsonb_build_object('source', 'web', 'tags', ARRAY['a', 'b'], 'score', floor(random() * 1000)), at;
      ELSIF dice < 0.85 THEN
        id := oldest[k] + floor(random() * (newest[k] - oldest[k] + 1))::bigint;
        EXECUTE format('UPDATE m%s SET status = status + 1, amount = $2, updated_at = $3 WHERE id = $1', k - 1)
          USING id, (random() * 100000)::numeric(12,2), at;
      ELSE
        -- Leaves only, their oldest rows first: no foreign key is in the way.
        k := 5 + floor(random() * 6)::int;
        IF oldest[k] < newest[k] - 100 THEN
          EXECUTE format('DELETE FROM m%s WHERE id = $1', k - 1) USING oldest[k];
          oldest[k] := oldest[k] + 1;
        END IF;
      END IF;
    END LOOP;
    done := done + rows;
    COMMIT;
  END LOOP;
END $$;

-- The last change of all.
CREATE TABLE done (id int PRIMARY KEY);
