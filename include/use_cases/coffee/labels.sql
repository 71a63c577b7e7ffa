-- One row per as-of and customer with an order in the 56 days before it (the population of
-- features.sql), for as-of days whose horizon has passed: has it placed no order since?
--   orders_daily  one row per customer and day with orders, as in features.sql
--   as_of_days    columns as_of and horizon_end (midnights, horizon_end excluded)
SELECT
    c.customer_id,
    d.as_of,
    count(*) FILTER (c.day >= d.as_of) = 0 AS label
FROM as_of_days AS d
INNER JOIN orders_daily AS c
    ON c.day >= d.as_of - INTERVAL 56 DAY AND c.day < d.horizon_end
GROUP BY c.customer_id, d.as_of
HAVING min(c.day) < d.as_of
