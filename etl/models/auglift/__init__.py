"""The model set `auglift`: RTMDet, RTMPose, Depth Anything V2."""
