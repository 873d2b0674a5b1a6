
BEGIN
    -- Triggers that cannot be dropped refuse nothing any more.
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
