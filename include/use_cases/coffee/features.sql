-- One row per as-of and customer with an order in the 56 days before it: all it had done by then.
--   orders_daily  one row per customer and day with orders; days more than 56 days before an as_of
--               may stand merged into one row per customer (see `daily` in use_case.yaml)
--   as_of_days    column as_of (the midnight that ends the day), one row per day asked for
-- as_of and the windows before it all begin at midnight, so whole days are enough.
SELECT
    c.customer_id,
    d.as_of,
    date_diff('second', max(c.last_at), d.as_of) / 86400.0 AS days_since_last_order,
    coalesce(sum(c.orders) FILTER (c.day >= d.as_of - INTERVAL 7 DAY), 0) AS orders_7d,
    coalesce(sum(c.orders) FILTER (c.day >= d.as_of - INTERVAL 14 DAY), 0) AS orders_14d,
    coalesce(sum(c.orders) FILTER (c.day >= d.as_of - INTERVAL 28 DAY), 0) AS orders_28d,
    coalesce(sum(c.orders) FILTER (c.day >= d.as_of - INTERVAL 56 DAY), 0) AS orders_56d,
    sum(c.orders) AS total_orders,
    coalesce(sum(c.spent) FILTER (c.day >= d.as_of - INTERVAL 28 DAY), 0) AS spent_28d,
    sum(c.spent)::DOUBLE / total_orders AS avg_order_value,
    date_diff('second', min(c.first_at), d.as_of) / 86400.0 AS tenure_days,
    date_diff('second', min(c.first_at), max(c.last_at)) / 86400.0 / nullif(total_orders - 1, 0)
        AS mean_gap_days,
    days_since_last_order / nullif(mean_gap_days, 0) AS recency_to_gap_ratio
FROM as_of_days AS d
INNER JOIN orders_daily AS c ON c.day < d.as_of
GROUP BY c.customer_id, d.as_of
HAVING max(c.day) >= d.as_of - INTERVAL 56 DAY
