-- One row per as-of and customer with an order in the 180 days before it: all it had done by then.
--   orders      accepted orders; every instant is UTC
--   as_of_days  column as_of (UTC instant), one row per day asked for
-- Orders are summed per customer and day first: as_of and the windows before it all begin at
-- midnight, so whole days are enough, and as-of days multiply fewer rows. Money is summed as
-- DECIMAL because such sums are exact: a day computed among many equals the day computed alone.
WITH customer_days AS (
    SELECT
        customer_id,
        count(*) AS orders,
        sum(amount::DECIMAL(18, 6)) AS spent,
        min(ordered_at) AS first_at,
        max(ordered_at) AS last_at
    FROM orders
    GROUP BY customer_id, ordered_at::DATE
)

SELECT
    c.customer_id,
    d.as_of,
    sum(c.orders) AS total_orders,
    sum(c.spent)::DOUBLE AS total_spent,
    total_spent / total_orders AS avg_order_value,
    date_diff('second', max(c.last_at), d.as_of) / 86400.0 AS days_since_last_order,
    count(*) AS active_days,
    date_diff('second', min(c.first_at), d.as_of) / 86400.0 AS tenure_days,
    coalesce(sum(c.orders) FILTER (c.last_at >= d.as_of - INTERVAL 30 DAY), 0) AS orders_30d,
    coalesce(sum(c.orders) FILTER (c.last_at >= d.as_of - INTERVAL 90 DAY), 0) AS orders_90d,
    coalesce(sum(c.spent) FILTER (c.last_at >= d.as_of - INTERVAL 30 DAY), 0) AS spent_30d,
    coalesce(sum(c.spent) FILTER (c.last_at >= d.as_of - INTERVAL 90 DAY), 0) AS spent_90d,
    date_diff('second', min(c.first_at), max(c.last_at)) / 86400.0 / nullif(total_orders - 1, 0)
        AS mean_gap_days,
    days_since_last_order / nullif(mean_gap_days, 0) AS recency_to_gap_ratio
FROM as_of_days AS d
INNER JOIN customer_days AS c ON c.last_at < d.as_of
GROUP BY c.customer_id, d.as_of
HAVING max(c.last_at) >= d.as_of - INTERVAL 180 DAY
