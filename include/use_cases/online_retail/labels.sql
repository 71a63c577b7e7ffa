-- One row per customer and as-of, for as-of days whose horizon has passed.
--   orders      accepted orders: one row per invoice and day
--   as_of_days  columns as_of and horizon_end (UTC instants, horizon_end excluded)
SELECT
    o.customer_id,
    d.as_of,
    count(*) FILTER (o.invoiced_at >= d.as_of) = 0 AS label
FROM as_of_days AS d
INNER JOIN orders AS o ON o.invoiced_at < d.horizon_end
GROUP BY o.customer_id, d.as_of
HAVING min(o.invoiced_at) < d.as_of
