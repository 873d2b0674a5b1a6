-- Ten thousand rows, updated again and again, a hundred at a time.
CREATE TABLE hot (id bigint PRIMARY KEY, v bigint, note text, at timestamptz);
INSERT INTO hot SELECT i, 0, 'row ' || i, '2026-01-01 00:00:00+00' FROM generate_series(1, 10000) i;

CREATE PROCEDURE load(changes bigint) LANGUAGE plpgsql AS $$
DECLARE done bigint := 0; start int; now_ timestamptz := '2026-03-01 00:00:00+00';
BEGIN
  PERFORM setseed(0.42);
  WHILE done < changes LOOP
    start := floor(random() * 10000)::int;
    now_ := now_ + interval '10 milliseconds';
    UPDATE hot SET v = v + 1, at = now_
      FROM (SELECT 1 + (start + i * 37) % 10000 AS id FROM generate_series(1, 100) i) chosen
      WHERE hot.id = chosen.id;
    done := done + 100;
    COMMIT;
  END LOOP;
END $$;

-- The last change of all.
CREATE TABLE done (id int PRIMARY KEY);
