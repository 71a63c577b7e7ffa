-- One row per customer and as-of: everything a customer had done before `as_of`.
--   orders_daily  one row per customer and day with invoices; days more than 90 days before an as_of
--               may stand merged into one row per customer (see `daily` in use_case.yaml)
--   as_of_days    column as_of (the midnight that ends the day), one row per day asked for
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
    sum(c.items) / total_orders AS items_per_order,
    sum(c.articles) / total_orders AS articles_per_order,
    date_diff('second', min(c.first_at), max(c.last_at)) / 86400.0 / nullif(total_orders - 1, 0)
        AS mean_gap_days,
    days_since_last_order / nullif(mean_gap_days, 0) AS recency_to_gap_ratio
FROM as_of_days AS d
INNER JOIN orders_daily AS c ON c.day < d.as_of
GROUP BY c.customer_id, d.as_of
