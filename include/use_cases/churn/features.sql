-- One row per as-of and customer with an order in the 180 days before it: all it had done by then.
--   orders_daily  one row per customer and day with orders; days more than 180 days before an as_of
--               may stand merged into one row per customer (see `daily` in use_case.yaml)
--   as_of_days    column as_of (the midnight that ends the day), one row per day asked for
-- as_of and the windows before it all begin at midnight, so whole days are enough.
SELECT
    c.customer_id,
    d.as_of,
    sum(c.orders) AS total_orders,
    sum(c.spent)::DOUBLE AS total_spent,
    total_spent / total_orders AS avg_order_value,
    date_diff('second', max(c.last_at), d.as_of) / 86400.0 AS days_since_last_order,
    sum(c.active_days) AS active_days,
    date_diff('second', min(c.first_at), d.as_of) / 86400.0 AS tenure_days,
    coalesce(sum(c.orders) FILTER (c.day >= d.as_of - INTERVAL 30 DAY), 0) AS orders_30d,
    coalesce(sum(c.orders) FILTER (c.day >= d.as_of - INTERVAL 90 DAY), 0) AS orders_90d,
    coalesce(sum(c.spent) FILTER (c.day >= d.as_of - INTERVAL 30 DAY), 0) AS spent_30d,
    coalesce(sum(c.spent) FILTER (c.day >= d.as_of - INTERVAL 90 DAY), 0) AS spent_90d,
    date_diff('second', min(c.first_at), max(c.last_at)) / 86400.0 / nullif(total_orders - 1, 0)
        AS mean_gap_days,
    days_since_last_order / nullif(mean_gap_days, 0) AS recency_to_gap_ratio,
    -- People buy more before Christmas: what a customer's own past cannot tell of the coming days.
    round(sin(2 * pi() * dayofyear(d.as_of) / 365.25), 6) AS year_sin,
    round(cos(2 * pi() * dayofyear(d.as_of) / 365.25), 6) AS year_cos
FROM as_of_days AS d
INNER JOIN orders_daily AS c ON c.day < d.as_of
GROUP BY c.customer_id, d.as_of
HAVING max(c.day) >= d.as_of - INTERVAL 180 DAY
