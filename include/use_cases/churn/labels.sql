-- One row per as-of and customer with an order in the 180 days before it (the population of
-- features.sql), for as-of days whose horizon has passed: has it placed no order since?
--   orders      accepted orders; every instant is UTC
--   as_of_days  columns as_of and horizon_end (UTC instants, horizon_end excluded)
SELECT
    o.customer_id,
    d.as_of,
    count(*) FILTER (o.ordered_at >= d.as_of) = 0 AS label
FROM as_of_days AS d
INNER JOIN orders AS o
    ON o.ordered_at >= d.as_of - INTERVAL 180 DAY AND o.ordered_at < d.horizon_end
GROUP BY o.customer_id, d.as_of
HAVING min(o.ordered_at) < d.as_of
