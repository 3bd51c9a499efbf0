-- done:
SELECT NOT EXISTS (
       SELECT 1 FROM pg_dist_partition AS p
        WHERE p.partmethod = 'h' AND pg_relation_size(p.logicalrelid) > 0
          AND p.logicalrelid::text ~ '^usage_(daily|archive|archiving)|^daily_cost$')
-- end
-- undone:
SELECT true
-- end
-- apply:
SELECT scale_out.alone(format('SELECT truncate_local_data_after_distributing_table(%L)', p.logicalrelid))
  FROM pg_dist_partition AS p
 WHERE p.partmethod = 'h' AND pg_relation_size(p.logicalrelid) > 0
   AND p.logicalrelid::text ~ '^usage_(daily|archive|archiving)|^daily_cost$';
-- end
-- undo:
SELECT 1;
-- end
