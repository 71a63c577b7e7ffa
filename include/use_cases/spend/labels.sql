-- One row per as-of and customer with an order in the 180 days before it (the population of the
-- features of churn), for as-of days whose horizon has passed: the value of its orders since.
--   orders_daily  one row per customer and day with orders
--   as_of_days    columns as_of and horizon_end (local midnights, horizon_end excluded)
SELECT
    c.customer_id,
    d.as_of,
    coalesce(sum(c.spent) FILTER (c.day >= d.as_of), 0)::DOUBLE AS label
FROM as_of_days AS d
INNER JOIN orders_daily AS c
    ON c.day >= d.as_of - INTERVAL 180 DAY AND c.day < d.horizon_end
GROUP BY c.customer_id, d.as_of
HAVING min(c.day) < d.as_of
