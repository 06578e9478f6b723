-- The statements that read a table of LiteLLM's spend logs; in braces, what differs with its name, age and the asker.

-- name: columns_of_table
SELECT attname AS name FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped;

-- name: spend_logs
SELECT (extract(epoch FROM "startTime") * 1000000)::bigint AS at_us, {service} AS service,
       prompt_tokens::float4 AS size, completion_tokens::float4 AS output_size
FROM {table}
WHERE ({status}::text = $1 OR $1::text IS NULL) AND lower(coalesce({cache_hit}::text, '')) <> 'true' AND {service} <> ''
ORDER BY "startTime", request_id;

-- name: spend_log_digest
SELECT count(*) || ' ' || coalesce(sum(hashtextextended(
    concat_ws('|', request_id, extract(epoch FROM "startTime"), {service}, prompt_tokens, completion_tokens), 0
)::numeric), 0) AS digest
FROM {table}
WHERE ({status}::text = $1 OR $1::text IS NULL) AND lower(coalesce({cache_hit}::text, '')) <> 'true' AND {service} <> '';
