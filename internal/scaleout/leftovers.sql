-- done:
SELECT NOT EXISTS (
       SELECT 1 FROM pg_dist_partition AS p
        WHERE p.partmethod = 'h' AND pg_relation_size(p.logicalrelid) > 0
          AND p.logicalrelid IN (SELECT '{table}'::regclass
                                  UNION SELECT x.relid FROM pg_partition_tree('{table}') AS x))
-- end
-- undone:
SELECT true
-- end
-- apply:
SELECT scale_out.alone(format('SELECT truncate_local_data_after_distributing_table(%L)', p.logicalrelid))
  FROM pg_dist_partition AS p
 WHERE p.partmethod = 'h' AND pg_relation_size(p.logicalrelid) > 0
   AND p.logicalrelid IN (SELECT '{table}'::regclass UNION SELECT x.relid FROM pg_partition_tree('{table}') AS x);
-- end
-- undo:
SELECT 1;
-- end
