-- Narrow rows, inserted a thousand at a time.
CREATE TABLE narrow (id bigint PRIMARY KEY, k int, t text, at timestamptz, n numeric(12,2));

CREATE PROCEDURE load(changes bigint) LANGUAGE plpgsql AS $$
DECLARE first bigint := 1;
BEGIN
  WHILE first <= changes LOOP
    INSERT INTO narrow
      SELECT i, (i * 7919) % 100000, substr(md5(i::text) || md5((i + 1)::text), 1, 40),
        timestamptz '2026-01-01 00:00:00+00' + i * interval '1 second', ((i * 37) % 1000000) / 100.0
      FROM generate_series(first, least(first + 999, changes)) i;
    COMMIT;
    first := first + 1000;
  END LOOP;
END $$;

-- The last change of all.
CREATE TABLE done (id int PRIMARY KEY);
