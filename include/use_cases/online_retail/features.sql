-- One row per customer and as-of: everything a customer had done before `as_of`.
--   orders      accepted orders: one row per invoice and day
--   as_of_days  column as_of (UTC instant), one row per day asked for
SELECT
    o.customer_id,
    d.as_of,
    count(*) AS total_orders,
    sum(o.amount) AS total_spent,
    avg(o.amount) AS avg_order_value,
    date_diff('second', max(o.invoiced_at), d.as_of) / 86400.0 AS days_since_last_order,
    count(DISTINCT o.invoiced_at::DATE) AS active_days,
    date_diff('second', min(o.invoiced_at), d.as_of) / 86400.0 AS tenure_days,
    count(*) FILTER (o.invoiced_at >= d.as_of - INTERVAL 30 DAY) AS orders_30d,
    count(*) FILTER (o.invoiced_at >= d.as_of - INTERVAL 90 DAY) AS orders_90d,
    coalesce(sum(o.amount) FILTER (o.invoiced_at >= d.as_of - INTERVAL 30 DAY), 0) AS spent_30d,
    coalesce(sum(o.amount) FILTER (o.invoiced_at >= d.as_of - INTERVAL 90 DAY), 0) AS spent_90d,
    avg(o.items) AS items_per_order,
    avg(o.articles) AS articles_per_order,
    date_diff('second', min(o.invoiced_at), max(o.invoiced_at)) / 86400.0 / nullif(count(*) - 1, 0)
        AS mean_gap_days,
    days_since_last_order / nullif(mean_gap_days, 0) AS recency_to_gap_ratio
FROM as_of_days AS d
INNER JOIN orders AS o ON o.invoiced_at < d.as_of
GROUP BY o.customer_id, d.as_of
